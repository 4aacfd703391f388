"""What a service gets in place of what the client asked for, and what still goes by the latter."""

import http.client
import json
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx2
import pytest
import test_http2_upstream
from http2_upstream import Asked as Http2Asked
from http2_upstream import Connection
from test_hooks import Process
from upstream import OK, Asked, Server, serving

from counterfoil.gateway.config import (
    Cache,
    GatewayConfig,
    HeaderEdits,
    HookSettings,
    Rewrite,
    Route,
)
from counterfoil.gateway.credentials import SigningKey
from counterfoil.gateway.data_plane import DataPlane
from counterfoil.gateway.services import Upstream
from counterfoil.gateway.signing import signed_headers

SECRET = secrets.token_urlsafe(32)
METHODS = ("GET", "POST")
OPEN = {"methods": METHODS, "service": "s", "identity": False}
STRIPPED = Rewrite(prefix="/api")
SENT = HeaderEdits(
    remove=("x-gone", "cookie"), set={"X-Set": "gateway"}, add={"x-added": "gateway"}
)
GIVEN = HeaderEdits(
    remove=("server", "www-authenticate"),
    set={"strict-transport-security": "max-age=60"},
    add={"x-served": "here"},
)
ROUTES = (
    Route(path="/api/*", rewrite=STRIPPED, upgrades=("websocket",), **OPEN),  # type: ignore[arg-type]
    Route(path="/shop/*", rewrite=Rewrite(prefix="/shop/", to="/v2/shop"), **OPEN),  # type: ignore[arg-type]
    Route(path="/health", rewrite=Rewrite(prefix="/health", to="/internal/live"), **OPEN),  # type: ignore[arg-type]
    Route(path="/edited", request_headers=SENT, response_headers=GIVEN, **OPEN),  # type: ignore[arg-type]
    Route(path="/hooked", request_headers=SENT, hooks=("mark",), **OPEN),  # type: ignore[arg-type]
    Route(path="/signed/*", rewrite=Rewrite(prefix="/signed"), methods=METHODS, service="s"),
    Route(path="/refused", response_headers=GIVEN, methods=METHODS, service="s"),
    Route(
        path="/kept/*",
        rewrite=Rewrite(prefix="/kept", to="/new"),
        response_headers=GIVEN,
        headers={"v": "2"},
        cache=Cache(),
        **OPEN,  # type: ignore[arg-type]
    ),
    Route(path="/kept/*", rewrite=Rewrite(prefix="/kept", to="/old"), cache=Cache(), **OPEN),  # type: ignore[arg-type]
)


def answer(asked: Asked, connection: socket.socket) -> None:
    """Tell what was asked."""
    body = asked.line.split()[1].encode()
    head = b"cache-control: max-age=60\r\nserver: mine\r\nx-served: there\r\n"
    connection.sendall(OK + head + b"content-length: %d\r\n\r\n%s" % (len(body), body))


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rewrites") / "access.jsonl"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(answer) as server:
        yield server


@pytest.fixture(scope="module")
def plane(server: Server, log: Path) -> Iterator[DataPlane]:
    (log.parent / "depot.key").write_text(SECRET)
    with ExitStack() as stack:
        hook = Process("mark")
        stack.callback(hook.kill)
        plane = DataPlane(
            GatewayConfig(
                listen="127.0.0.1:0",
                admin="127.0.0.1:0",
                tls="off",
                signing_keys={"depot": SigningKey(secret_file="depot.key", tenant="t")},
                hooks={"mark": HookSettings(deadline_ms=10_000)},
                routes=ROUTES,
                services={"s": Upstream()},
            ),
            access_log=log,
            admin_credential="c",
            folder=log.parent,
            hooks={"mark": [hook.address]},
        )
        plane.set_endpoints("s", [("s-1", server.address)])
        yield plane
        plane.drain(1.0)


@pytest.fixture(scope="module")
def client(plane: DataPlane) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=f"http://{plane.listen}", timeout=20) as client:
        yield client


def as_written(
    plane: DataPlane, target: str, headers: dict[str, str] | None = None
) -> tuple[int, str]:
    """Status, and what the service was asked, for a target that no library has tidied up."""
    connection = http.client.HTTPConnection(plane.listen, timeout=20)
    connection.request("GET", target, headers=headers or {})
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text


@pytest.mark.parametrize(
    ("target", "asked"),
    [
        ("/api/items/1?page=2&x=%20", "/items/1?page=2&x=%20"),
        ("/api/", "/"),
        ("/%61p%69/a%20b/%61%2f", "/a%20b/%61%2f"),
        ("/api//evil.example/x", "/evil.example/x"),
        ("/api/a//b", "/a//b"),
        ("/api/?q", "/?q"),
        ("/shop/carts", "/v2/shop/carts"),
        ("/health", "/internal/live"),
        ("/health?deep", "/internal/live?deep"),
    ],
)
def test_the_beginning_of_a_path_is_taken_away_or_replaced(
    plane: DataPlane, target: str, asked: str
) -> None:
    assert as_written(plane, target) == (200, asked)


def test_a_path_that_climbs_is_refused_before_anything_is_taken_away(plane: DataPlane) -> None:
    for target in ("/api/../admin", "/api/%2e%2e/admin", "/api/..;/admin"):
        assert as_written(plane, target)[0] == 400


def test_an_upgrade_is_asked_for_at_the_rewritten_path(plane: DataPlane) -> None:
    upgrade = {"connection": "upgrade", "upgrade": "websocket", "sec-websocket-key": "a" * 24}
    assert as_written(plane, "/api/events", upgrade) == (200, "/events")


def test_headers_are_taken_away_set_and_added_for_the_service(
    client: httpx2.Client, server: Server
) -> None:
    client.get(
        "/edited",
        headers=[
            ("x-gone", "1"),
            ("cookie", "a=b"),
            ("x-set", "mine"),
            ("x-set", "mine too"),
            ("x-other", "1"),
        ],
    )
    seen = server.asked[-1].headers
    assert {"x-gone", "cookie"}.isdisjoint(seen)
    assert (seen["x-set"], seen["x-added"], seen["x-other"]) == ("gateway", "gateway", "1")


def test_no_client_can_say_that_a_header_that_is_set_belongs_to_its_connection(
    plane: DataPlane, server: Server
) -> None:
    as_written(plane, "/edited", {"connection": "keep-alive, x-set, x-added, x-other"})
    seen = server.asked[-1].headers
    assert (seen["x-set"], seen["x-added"]) == ("gateway", "gateway")


def test_hooks_see_what_the_client_sent_and_have_the_last_word(
    client: httpx2.Client, server: Server
) -> None:
    client.get("/hooked?a=b", headers={"x-mine": "client", "x-gone": "1"})
    seen = server.asked[-1].headers
    assert seen["x-seen"] == "GET /hooked?a=b client"
    assert (seen["x-mine"], seen["x-set"]) == ("hooked", "gateway")
    assert "x-gone" not in seen


def test_answers_are_changed_the_gateways_own_too(client: httpx2.Client) -> None:
    served = client.get("/edited")
    assert "server" not in served.headers
    assert served.headers["strict-transport-security"] == "max-age=60"
    assert served.headers.get_list("x-served") == ["there", "here"]
    refused = client.get("/refused")
    assert (refused.status_code, refused.headers["x-served"]) == (401, "here")
    assert "www-authenticate" not in refused.headers


def test_the_cache_goes_by_what_was_asked_and_keeps_rewrites_apart(
    client: httpx2.Client, plane: DataPlane, server: Server
) -> None:
    new = {"v": "2"}
    assert [client.get("/kept/a", headers=each).text for each in (new, {})] == ["/new/a", "/old/a"]
    asked = len(server.asked)
    again = client.get("/kept/a", headers=new)
    assert (again.text, client.get("/kept/a").text) == ("/new/a", "/old/a")
    assert again.headers.get_list("x-served") == ["there", "here"]
    assert len(server.asked) == asked
    plane.purge(urls=["/new/a"])  # nobody asks for that
    client.get("/kept/a", headers=new)
    assert len(server.asked) == asked
    plane.purge(urls=["/kept/a"])
    assert client.get("/kept/a", headers=new).text == "/new/a"
    assert len(server.asked) == asked + 1


def test_after_a_reload_another_rewrite_has_answers_of_its_own(server: Server) -> None:
    def config(to: str) -> GatewayConfig:
        rewrite = Rewrite(prefix="/kept", to=to)
        route = Route(path="/kept/*", rewrite=rewrite, cache=Cache(), **OPEN)  # type: ignore[arg-type]
        return GatewayConfig(listen="127.0.0.1:0", admin="127.0.0.1:0", tls="off", routes=(route,))

    plane = DataPlane(config("/old"), access_log=None, admin_credential="c")
    plane.set_endpoints("s", [("s-1", server.address)])
    with httpx2.Client(base_url=f"http://{plane.listen}", timeout=20) as client:
        assert client.get("/kept/a").text == "/old/a"
        plane.reload(config("/new"))
        assert client.get("/kept/a").text == "/new/a"
        asked = len(server.asked)
        plane.reload(config("/old"))
        assert client.get("/kept/a").text == "/old/a"
        assert len(server.asked) == asked
    plane.drain(1.0)


def test_a_signature_is_of_what_the_client_sent(client: httpx2.Client) -> None:
    def ask(signed_path: str) -> httpx2.Response:
        headers = signed_headers(
            "POST",
            f"http://h{signed_path}",
            b"x",
            key_id="depot",
            secret=SECRET.encode(),
            created=int(time.time()),
        )
        return client.post("/signed/a?b=c", content=b"x", headers=headers)

    assert ask("/signed/a?b=c").text == "/a?b=c"
    assert ask("/a?b=c").status_code == 401


def test_the_access_log_tells_what_was_asked(client: httpx2.Client, log: Path) -> None:
    answered = client.get("/api/logged")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    mine = [line for line in lines if line["request_id"] == answered.headers["x-request-id"]]
    assert [line["path"] for line in mine] == ["/api/logged"]


def test_services_of_http2_get_the_same() -> None:
    asked: list[Http2Asked] = []

    def respond(request: Http2Asked, connection: Connection) -> None:
        asked.append(request)
        connection.respond(request, b"good")

    route = {"path": "/api/*", "rewrite": STRIPPED, "request_headers": SENT}
    with test_http2_upstream.gateway(respond, route=route) as (client, _, _):
        assert client.get("/api/x?y", headers={"x-gone": "1", "x-set": "mine"}).text == "good"
    (seen,) = asked
    assert seen.headers[":path"] == "/x?y"
    assert seen.headers["x-set"] == "gateway"
    assert "x-gone" not in seen.headers


@pytest.mark.parametrize(
    ("path", "prefix", "to"),
    [
        ("/api*", "/api", "/"),
        ("/*", "/api", "/"),
        ("/a/*", "/a/b", "/"),
        ("/api/*", "api", "/"),
        ("/api/*", "/api", "v2"),
        ("/api/*", "/api", "//evil.example"),
        ("/api/*", "/api", "/a/../b"),
        ("/api/*", "/api", "/a?b=c"),
        ("/api/*", "/api", "/%2e%2e"),
        ("/api/*", "/api", "/a\r\nx: y"),
    ],
)
def test_a_rewrite_that_would_not_fit_all_paths_is_refused(path: str, prefix: str, to: str) -> None:
    with pytest.raises(ValueError, match=r"begin"):
        Route(path=path, rewrite=Rewrite(prefix=prefix, to=to), **OPEN)  # type: ignore[arg-type]


FRAMING = ("Connection", "transfer-encoding", "content-length", "Upgrade", "te", "trailer")
IDENTITY = ("Host", "X-Forwarded-For", "x-request-id", "X-Counterfoil-Tenant", "traceparent")
CREDENTIALS = ("Authorization", "x-api-key", "idempotency-key")
OURS = ("x-request-id", "Counterfoil-Effect", "access-control-allow-origin", "content-type")


@pytest.mark.parametrize("verb", ["set", "add", "remove"])
def test_what_the_gateway_vouches_for_and_what_frames_a_message_is_not_to_be_changed(
    verb: str,
) -> None:
    for side, names in (
        ("request_headers", (*FRAMING, *IDENTITY, *CREDENTIALS)),
        ("response_headers", (*FRAMING, *OURS)),
    ):
        for name in names:
            with pytest.raises(ValueError, match=f"(?i){name}"):
                edits = HeaderEdits(**{verb: (name,) if verb == "remove" else {name: "v"}})  # type: ignore[arg-type]
                Route(path="/", **{side: edits}, **OPEN)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", ["a\r\nx-b: c", "a\x00", "ä", "", " a"])
def test_what_is_no_value_of_a_header_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="can't be in a header"):
        HeaderEdits(set={"x-a": value})
