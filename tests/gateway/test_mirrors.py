"""Copies of requests for another service: what it gets, and that no client feels them."""

import hashlib
import json
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from sharing import until
from upstream import LARGE, OK, Asked, Server, serving, sized

from counterfoil.gateway.config import Cache, GatewayConfig, HeaderEdits, Rewrite, Route
from counterfoil.gateway.credentials import SigningKey
from counterfoil.gateway.data_plane import DataPlane
from counterfoil.gateway.mirroring import Mirror
from counterfoil.gateway.services import Upstream
from counterfoil.gateway.signing import signed_headers
from counterfoil.gateway.splitting import Split

SECRET = secrets.token_urlsafe(32)
OPEN = {"methods": ("GET", "POST", "PUT"), "service": "old", "identity": False}
BODY_LIMIT = 64 * 1024


def mirror(percent: float = 100.0, concurrency: int = 64, service: str = "new") -> Mirror:
    return Mirror(service=service, percent=percent, concurrency=concurrency)


ROUTES = (
    Route(
        path="/api/*",
        mirror=mirror(),
        rewrite=Rewrite(prefix="/api", to="/v2"),
        request_headers=HeaderEdits(set={"x-set": "gateway"}),
        **OPEN,  # type: ignore[arg-type]
    ),
    Route(path="/some", mirror=mirror(percent=25.0), **OPEN),  # type: ignore[arg-type]
    Route(path="/none", mirror=mirror(percent=0.0), **OPEN),  # type: ignore[arg-type]
    Route(path="/few", mirror=mirror(concurrency=2), **OPEN),  # type: ignore[arg-type]
    Route(path="/large", mirror=mirror(), **OPEN),  # type: ignore[arg-type]
    Route(path="/sizes", mirror=mirror(), **OPEN),  # type: ignore[arg-type]
    Route(path="/compared", mirror=mirror(), **OPEN),  # type: ignore[arg-type]
    Route(path="/nowhere", mirror=mirror(service="gone"), **OPEN),  # type: ignore[arg-type]
    Route(path="/kept", mirror=mirror(), cache=Cache(), **OPEN),  # type: ignore[arg-type]
    Route(path="/signed", methods=("POST",), service="old", mirror=mirror()),
    Route(
        path="/split",
        methods=("GET",),
        identity=False,
        split=Split(weights={"old": 1, "new": 0}, header="x-version"),
        mirror=mirror(),
    ),
)


class Copies:
    """The service that gets the copies: does as it is told, and remembers what it got."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.status = b"200 OK"
        self.answers = threading.Event()
        self.answers.set()

    def __call__(self, asked: Asked, connection: socket.socket) -> None:
        self.asked.append(asked)
        self.answers.wait(timeout=30)
        if asked.line.startswith("GET /large"):
            connection.sendall(sized(LARGE))
            return
        connection.sendall(b"HTTP/1.1 %s\r\ncontent-length: 4\r\n\r\ncopy" % self.status)

    def of(self, path: str) -> list[Asked]:
        return [each for each in self.asked if each.line.split()[1].startswith(path)]


def answer(asked: Asked, connection: socket.socket) -> None:
    if asked.headers.get("x-status"):
        connection.sendall(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")
    elif asked.line.startswith("GET /kept"):
        head = b"cache-control: max-age=60\r\ncontent-length: 3\r\n\r\n"
        connection.sendall(OK + head + b"old")
    else:
        connection.sendall(sized(b"old"))


@pytest.fixture(scope="module")
def copies() -> Copies:
    return Copies()


@pytest.fixture(scope="module")
def servers(copies: Copies) -> Iterator[dict[str, Server]]:
    with serving(answer) as old, serving(copies) as new:
        yield {"old": old, "new": new}


@pytest.fixture(scope="module")
def plane(
    servers: dict[str, Server], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DataPlane]:
    folder: Path = tmp_path_factory.mktemp("mirrors")
    (folder / "depot.key").write_text(SECRET)
    plane = DataPlane(
        GatewayConfig(
            listen="127.0.0.1:0",
            admin="127.0.0.1:0",
            tls="off",
            request_body_limit=4_000_000,
            signing_keys={"depot": SigningKey(secret_file="depot.key", tenant="t")},
            routes=ROUTES,
            services={
                "old": Upstream(concurrency=8, queue=0),
                # Copies take no place: a client that asks for the service itself finds one.
                "new": Upstream(concurrency=1, queue=0, attempt_timeout_seconds=20.0, attempts=3),
            },
        ),
        access_log=None,
        admin_credential="c",
        folder=folder,
    )
    for name, server in servers.items():
        plane.set_endpoints(name, [(f"{name}-1", server.address)])
    yield plane
    plane.drain(1.0)


@pytest.fixture
def client(plane: DataPlane) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=f"http://{plane.listen}", timeout=20) as client:
        yield client


def of(plane: DataPlane, path: str) -> dict[str, object]:
    """What became of the copies of a route."""
    (found,) = [each for each in plane.state()["mirrors"] if each["path"] == path]
    return found


def test_a_copy_is_what_the_service_itself_gets_and_says_that_it_is_one(
    client: httpx2.Client, copies: Copies, servers: dict[str, Server]
) -> None:
    given = {
        "idempotency-key": "k1",
        "x-counterfoil-mirrored": "forged",
        "connection": "x-hop",
        "x-hop": "1",
        "te": "trailers",
        "expect": "100-continue",
    }
    answered = client.post("/api/pay?a=%20", content=b"body", headers=given)
    assert (answered.status_code, answered.text) == (200, "old")
    until(lambda: copies.of("/v2/pay"))
    (copy,), original = copies.of("/v2/pay"), servers["old"].asked[-1]
    assert (copy.line, copy.body) == (original.line, original.body)
    assert copy.line == "POST /v2/pay?a=%20 HTTP/1.1"
    assert copy.headers.pop("x-counterfoil-mirrored") == "true"
    assert "x-counterfoil-mirrored" not in original.headers
    assert copy.headers.pop("host") != original.headers.pop("host")
    assert copy.headers == original.headers
    assert copy.headers["x-set"] == "gateway"
    assert copy.headers["idempotency-key"] == "k1"
    assert not {"expect", "x-hop"} & copy.headers.keys()


def test_a_part_of_the_requests_is_copied(client: httpx2.Client, plane: DataPlane) -> None:
    for _ in range(200):
        client.get("/some")
        client.get("/none")
    until(lambda: of(plane, "/some")["under_way"] == 0)
    # Of 200 by chance: further away once in a hundred million times.
    assert 15 < of(plane, "/some")["sent"] < 90  # type: ignore[operator]
    assert of(plane, "/none")["sent"] == 0


def test_copies_that_get_no_answer_hold_up_no_client_and_what_is_too_much_is_dropped(
    client: httpx2.Client, copies: Copies, plane: DataPlane
) -> None:
    copies.answers.clear()
    try:
        for _ in range(20):
            assert client.get("/few").text == "old"
        until(lambda: len(copies.of("/few")) == 2)
        state = of(plane, "/few")
        assert (state["under_way"], state["sent"]) == (2, 0)
        assert state["dropped"] == {"full": 18, "body": 0, "no_instance": 0}
        assert plane.state()["services"]["new"]["in_flight"] == 0
    finally:
        copies.answers.set()
    until(lambda: of(plane, "/few")["sent"] == 2)
    assert client.get("/few").text == "old"
    until(lambda: of(plane, "/few")["sent"] == 3)


def test_bodies_that_are_large_or_come_in_parts_are_not_copied(
    client: httpx2.Client, copies: Copies, plane: DataPlane
) -> None:
    assert client.put("/sizes", content=bytes(BODY_LIMIT)).text == "old"
    assert client.put("/sizes", content=bytes(BODY_LIMIT + 1)).text == "old"

    def parts() -> Iterator[bytes]:
        for _ in range(3):
            yield bytes(BODY_LIMIT)

    assert client.put("/sizes", content=parts()).text == "old"
    until(lambda: of(plane, "/sizes")["sent"] == 1)
    assert of(plane, "/sizes")["dropped"] == {"full": 0, "body": 2, "no_instance": 0}
    assert [len(each.body) for each in copies.of("/sizes")] == [BODY_LIMIT]


def test_a_signed_body_is_copied_if_it_is_small(
    client: httpx2.Client, copies: Copies, plane: DataPlane
) -> None:
    for size in (5, BODY_LIMIT + 1):
        body = bytes(size)
        signed = signed_headers(
            "POST",
            "http://h/signed",
            body,
            key_id="depot",
            secret=SECRET.encode(),
            created=int(time.time()),
        )
        assert client.post("/signed", content=body, headers=signed).text == "old"
    until(lambda: of(plane, "/signed")["sent"] == 1)
    (copy,) = copies.of("/signed")
    assert copy.headers["x-counterfoil-tenant"] == "t"
    assert hashlib.sha256(copy.body).digest() == hashlib.sha256(bytes(5)).digest()
    assert of(plane, "/signed")["dropped"] == {"full": 0, "body": 1, "no_instance": 0}


def test_answers_are_counted_and_held_against_what_the_client_got(
    client: httpx2.Client, copies: Copies, plane: DataPlane
) -> None:
    client.get("/compared")
    client.get("/compared", headers={"x-status": "404"})
    until(lambda: of(plane, "/compared")["differed"] == 1)
    until(lambda: of(plane, "/compared")["sent"] == 2)  # or the first is answered as the third
    copies.status = b"503 Service Unavailable"
    asked = len(copies.of("/compared"))
    try:
        assert client.get("/compared").text == "old"
        until(lambda: of(plane, "/compared")["differed"] == 2)
    finally:
        copies.status = b"200 OK"
    assert len(copies.of("/compared")) == asked + 1, "a copy is not sent again"
    assert of(plane, "/compared")["answers"] == [0, 2, 0, 0, 1]
    metrics = httpx2.get(
        f"http://{plane.admin}/metrics", headers={"authorization": "Bearer c"}
    ).text
    for line in (
        'mirror_copies_total{route="/compared",service="new",outcome="sent"} 3',
        'mirror_copies_total{route="/compared",service="new",outcome="full"} 0',
        'mirror_answers_total{route="/compared",service="new",status="5xx"} 1',
        'mirror_answers_total{route="/compared",service="new",status="none"} 0',
        'mirror_differences_total{route="/compared",service="new"} 2',
        'mirror_in_flight{route="/compared",service="new"} 0',
    ):
        assert f"\ncounterfoil_gateway_{line}\n" in metrics


def test_a_large_answer_to_a_copy_is_read_for_a_while_and_thrown_away(
    client: httpx2.Client, plane: DataPlane
) -> None:
    for _ in range(3):
        assert client.get("/large").text == "old"
    until(lambda: of(plane, "/large")["sent"] == 3)
    state = of(plane, "/large")
    assert (state["answers"], state["under_way"]) == ([0, 3, 0, 0, 0], 0)


def test_a_service_that_is_not_there_is_no_clients_trouble(
    client: httpx2.Client, plane: DataPlane
) -> None:
    assert client.get("/nowhere").text == "old"
    until(lambda: of(plane, "/nowhere")["dropped"] == {"full": 0, "body": 0, "no_instance": 1})
    assert "gone" not in plane.await_instances(0, threading.Event()), "no start waits for it"
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = f"127.0.0.1:{closed.getsockname()[1]}"
    plane.set_endpoints("gone", [("gone-1", address)])
    began = time.monotonic()
    assert client.get("/nowhere").text == "old"
    assert time.monotonic() - began < 10
    until(lambda: of(plane, "/nowhere")["unanswered"] == 1)


def test_what_the_cache_answers_is_not_copied_and_what_it_asks_for_is(
    client: httpx2.Client, copies: Copies, plane: DataPlane
) -> None:
    for _ in range(3):
        assert client.get("/kept").text == "old"
    until(lambda: of(plane, "/kept")["sent"] == 1)
    assert len(copies.of("/kept")) == 1


def test_a_request_that_went_to_the_service_itself_is_not_copied_there(
    client: httpx2.Client, copies: Copies, plane: DataPlane
) -> None:
    assert client.get("/split", headers={"x-version": "new"}).text == "copy"
    assert client.get("/split").text == "old"
    until(lambda: of(plane, "/split")["sent"] == 1)
    assert [each.headers.get("x-counterfoil-mirrored") for each in copies.of("/split")] == [
        None,
        "true",
    ]


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"percent": 101.0}, "percent is 0 to 100"), ({"concurrency": 0}, "concurrency of a mirror")],
)
def test_a_mirror_that_makes_no_sense_is_refused(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Mirror(service="new", **settings)  # type: ignore[arg-type]


def test_a_service_is_not_sent_copies_of_its_own_requests() -> None:
    with pytest.raises(ValueError, match="do everything twice"):
        Route(path="/a", mirror=mirror(service="old"), **OPEN)  # type: ignore[arg-type]
    assert json.dumps(Route(path="/a", mirror=mirror(), **OPEN).services) == '["old", "new"]'  # type: ignore[arg-type]
