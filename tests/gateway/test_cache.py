"""The response cache in the real data plane: what is kept, for whom, who waits, what ends it."""

import json
import socket
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
from joserfc import jwt
from joserfc.jwk import ECKey
from upstream import LARGE, OK, Asked, chunked, gateway

from counterfoil.gateway.config import Cache, GatewayConfig, Identity, Route, Upstream
from counterfoil.gateway.data_plane import DataPlane, GatewayError

CACHED = {"cache": Cache()}


def fields(*lines: str, body: bytes = b"abc", status: str = "200 OK") -> bytes:
    head = "".join(f"{line}\r\n" for line in (*lines, f"content-length: {len(body)}"))
    return f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + body


def always(*lines: str, body: bytes = b"abc") -> Callable[[Asked, socket.socket], None]:
    """A service whose answers have these fields, and say how many it has given."""
    given: list[int] = []

    def answer(asked: Asked, connection: socket.socket) -> None:
        given.append(1)
        sent = fields(*lines, f"x-number: {len(given)}", body=body)
        connection.sendall(sent[: -len(body)] if asked.line.startswith("HEAD") else sent)

    return answer


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.005)


def hanging(address: str, number: int, path: str = "/x") -> list[socket.socket]:
    """As many clients that have sent a request, and not read its answer."""
    host, _, port = address.partition(":")
    clients = [socket.create_connection((host, int(port)), timeout=30) for _ in range(number)]
    for client in clients:
        client.sendall(f"GET {path} HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n".encode())
    return clients


def status_of(client: socket.socket) -> int:
    """The status of what a hanging client is answered, read to its end."""
    with client, client.makefile("rb") as answer:
        return int(answer.read().split()[1])


def test_a_fresh_answer_is_sent_again_without_asking_and_leaves_its_stub(tmp_path: Path) -> None:
    log = tmp_path / "access.jsonl"
    with gateway(always("cache-control: max-age=60"), route=CACHED, access_log=log) as (
        client,
        server,
        plane,
    ):
        first, second = client.get("/x?a=1"), client.get("/x?a=1")
        assert (first.content, second.content) == (b"abc", b"abc")
        assert first.headers["cache-status"] == "counterfoil; fwd=uri-miss; fwd-status=200; stored"
        assert second.headers["cache-status"].startswith("counterfoil; hit; ttl=")
        assert ("age" in first.headers, second.headers["age"]) == (False, "0")
        assert second.headers["date"] == first.headers["date"]
        assert second.headers["x-request-id"] != first.headers["x-request-id"]
        assert client.get("/x?a=2").headers["x-number"] == "2", "the query is a part of the key"
        assert len(server.asked) == 2
        stubs = [json.loads(line) for line in log.read_text().splitlines()]
        assert [stub["cache"] for stub in stubs] == ["miss", "hit", "miss"]
        assert [(stub["instance"], stub["attempts"]) for stub in stubs[:2]] == [("s-1", 1), ("", 0)]
        state = plane.state()["cache"]
        assert state["routes"]["/*"]["hit"] == 1
        assert (state["entries"], state["hit_rate"]) == (2, pytest.approx(1 / 3))


def test_a_route_without_a_cache_keeps_nothing(tmp_path: Path) -> None:
    log = tmp_path / "access.jsonl"
    with gateway(always("cache-control: max-age=60"), access_log=log) as (client, server, plane):
        assert "cache-status" not in client.get("/x").headers
        client.get("/x")
        assert len(server.asked) == 2
        assert json.loads(log.read_text().splitlines()[1])["cache"] == ""
        assert plane.state()["cache"] is None
        with pytest.raises(GatewayError, match="no route has a cache"):
            plane.purge(everything=True)


def test_a_thousand_misses_at_once_are_one_request_to_the_service() -> None:
    def answer(_: Asked, connection: socket.socket) -> None:
        assert go.wait(20)
        connection.sendall(fields("cache-control: max-age=60"))

    go = threading.Event()
    with gateway(answer, route=CACHED, attempt_timeout_seconds=30.0) as (_, server, plane):
        clients = hanging(plane.listen, 1_000)
        until(lambda: plane.state()["requests"] == 1_000)
        go.set()
        assert {status_of(client) for client in clients} == {200}
        assert len(server.asked) == 1
        counts = plane.state()["cache"]["routes"]["/*"]
        assert (counts["miss"], counts["collapsed"] + counts["hit"]) == (1, 999)


def test_others_get_their_answer_when_the_client_that_asked_first_hangs_up() -> None:
    def answer(_: Asked, connection: socket.socket) -> None:
        assert go.wait(20)
        connection.sendall(fields("cache-control: max-age=60"))

    go = threading.Event()
    with gateway(answer, route=CACHED, attempt_timeout_seconds=30.0) as (_, server, plane):
        (first,) = hanging(plane.listen, 1)
        until(lambda: len(server.asked) == 1)
        others = hanging(plane.listen, 5)
        until(lambda: plane.state()["requests"] == 6)
        first.close()
        time.sleep(0.05)  # the end of the connection is on its way to the gateway
        go.set()
        assert {status_of(client) for client in others} == {200}
        assert len(server.asked) == 1


@pytest.mark.parametrize(
    "first",
    [
        fields("cache-control: no-store"),
        fields("cache-control: max-age=60, private"),
        b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\ncache-control: max-age=60\r\n\r\ntorn",
    ],
)
def test_who_waited_for_an_answer_that_is_not_for_others_asks_for_itself(first: bytes) -> None:
    def answer(_: Asked, connection: socket.socket) -> bool:
        if len(server.asked) == 1:
            assert go.wait(20)
            connection.sendall(first)
            return not first.endswith(b"torn")
        connection.sendall(fields("cache-control: max-age=60, private"))
        return True

    go = threading.Event()
    with gateway(answer, route=CACHED, attempt_timeout_seconds=30.0, attempts=1) as (
        _,
        server,
        plane,
    ):
        clients = hanging(plane.listen, 10)
        until(lambda: plane.state()["requests"] == 10 and len(server.asked) == 1)
        go.set()
        statuses = sorted(status_of(client) for client in clients)
        assert statuses[:9] == [200] * 9
        assert statuses[9] == (502 if first.endswith(b"torn") else 200)
        assert len(server.asked) == 10


def test_nobody_waits_longer_than_the_route_has_it() -> None:
    def answer(_: Asked, connection: socket.socket) -> None:
        if len(server.asked) == 1:
            assert go.wait(20)
        connection.sendall(fields("cache-control: max-age=60"))

    go = threading.Event()
    route = {"cache": Cache(collapse_wait_seconds=0.1)}
    with gateway(answer, route=route, attempt_timeout_seconds=30.0) as (client, server, plane):
        hung = hanging(plane.listen, 1)
        until(lambda: len(server.asked) == 1)
        assert client.get("/x").content == b"abc"
        assert len(server.asked) == 2
        go.set()
        assert [status_of(each) for each in hung] == [200]


def test_a_stale_answer_goes_out_at_once_while_one_request_fetches_the_next() -> None:
    def answer(_: Asked, connection: socket.socket) -> None:
        number = len(server.asked)
        assert number == 1 or go.wait(20)
        age = "age: 20" if number == 1 else "age: 0"
        control = "cache-control: max-age=10, stale-while-revalidate=60"
        connection.sendall(fields(control, age, f"x-number: {number}"))

    go = threading.Event()
    with gateway(answer, route=CACHED, attempt_timeout_seconds=30.0) as (client, server, plane):
        client.get("/x")
        for _ in range(20):
            stale = client.get("/x")
            assert stale.headers["x-number"] == "1"
            assert "detail=stale-while-revalidate" in stale.headers["cache-status"]
        go.set()
        until(lambda: client.get("/x").headers["x-number"] == "2")
        assert len(server.asked) == 2
        assert plane.state()["cache"]["routes"]["/*"]["stale"] >= 20


@pytest.mark.parametrize("dead", [True, False])
def test_a_stale_answer_stands_in_for_a_service_that_fails_if_it_may(dead: bool) -> None:
    def answer(asked: Asked, connection: socket.socket) -> bool:
        if asked.line in seen:
            if not dead:
                connection.sendall(fields(status="500 Internal Server Error", body=b"no"))
            return not dead
        seen.append(asked.line)
        allowed = "stale-if-error=60" if "/may" in asked.line else "must-revalidate"
        connection.sendall(fields(f"cache-control: max-age=10, {allowed}", "age: 20", 'etag: "1"'))
        return True

    seen: list[str] = []
    with gateway(answer, route=CACHED) as (client, _, plane):
        for path in ("/may", "/must-not"):
            assert client.get(path).content == b"abc"
        instead = client.get("/may")
        status = 502 if dead else 500
        assert (instead.status_code, instead.content) == (200, b"abc")
        assert f"fwd-status={status}; detail=stale-if-error" in instead.headers["cache-status"]
        assert client.get("/must-not").status_code in {status, 503}  # 503: the breaker has opened
        assert plane.state()["cache"]["routes"]["/*"]["stale_if_error"] == 1


def test_variants_are_kept_apart_by_the_fields_that_the_answer_names() -> None:
    def answer(asked: Asked, connection: socket.socket) -> None:
        language = asked.headers.get("accept-language", "none").encode()
        connection.sendall(
            fields("cache-control: max-age=60", "vary: Accept-Language", body=language)
        )

    with gateway(answer, route=CACHED) as (client, server, _):
        for _ in range(2):
            for language in ("de", "en", "de, en"):
                answered = client.get("/x", headers={"accept-language": language})
                assert answered.text == language
        assert client.get("/x", headers={"accept-language": "EN , de"}).text == "de, en"
        assert client.get("/x").text == "none"
        assert len(server.asked) == 4


def test_what_varies_by_everything_is_not_kept() -> None:
    with gateway(always("cache-control: max-age=60", "vary: a, *"), route=CACHED) as (
        client,
        server,
        _,
    ):
        client.get("/x")
        client.get("/x")
        assert len(server.asked) == 2


def test_a_range_and_a_head_come_out_of_the_whole_answer() -> None:
    body = bytes(range(100))
    kept = always("cache-control: max-age=60", 'etag: "1"', body=body)
    with gateway(kept, route=CACHED) as (client, server, _):
        part = client.get("/y", headers={"range": "bytes=0-1"})
        assert part.content == body, "nothing is stored yet, and this service knows no ranges"
        assert client.get("/x").content == body
        asked = len(server.asked)

        def ranged(range_: str, **more: str) -> httpx2.Response:
            return client.get("/x", headers={"range": range_, **more})

        part = ranged("bytes=10-19")
        assert (part.status_code, part.content) == (206, body[10:20])
        assert part.headers["content-range"] == "bytes 10-19/100"
        assert ranged("bytes=-5").content == body[-5:]
        assert ranged("bytes=95-").content == body[95:]
        beyond = ranged("bytes=100-")
        assert (beyond.status_code, beyond.headers["content-range"]) == (416, "bytes */100")
        assert ranged("bytes=0-1,5-6").status_code == 200
        assert ranged("bytes=0-1", **{"if-range": '"1"'}).status_code == 206
        assert ranged("bytes=0-1", **{"if-range": '"2"'}).content == body
        head = client.head("/x")
        assert (head.content, head.headers["content-length"]) == (b"", "100")
        assert "hit" in head.headers["cache-status"]
        assert len(server.asked) == asked


def test_a_client_that_has_it_already_gets_a_304() -> None:
    modified = "last-modified: Wed, 01 Jan 2020 00:00:00 GMT"
    kept = always("cache-control: max-age=60", 'etag: W/"1"', modified)
    with gateway(kept, route=CACHED) as (client, server, _):
        client.get("/x")

        def asked(**conditions: str) -> httpx2.Response:
            return client.get("/x", headers={k.replace("_", "-"): v for k, v in conditions.items()})

        same = asked(if_none_match='"0", "1"')
        assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", 'W/"1"')
        assert "content-length" not in same.headers
        assert asked(if_none_match='"2"').status_code == 200
        assert asked(if_modified_since="Wed, 01 Jan 2020 00:00:00 GMT").status_code == 304
        assert asked(if_modified_since="Tue, 31 Dec 2019 00:00:00 GMT").status_code == 200
        later = "Thu, 02 Jan 2020 00:00:00 GMT"
        assert asked(if_none_match='"2"', if_modified_since=later).status_code == 200
        assert len(server.asked) == 1


def test_what_is_stale_is_asked_for_by_its_tag_and_takes_over_what_the_304_says() -> None:
    def answer(asked: Asked, connection: socket.socket) -> None:
        if asked.headers.get("if-none-match") == '"1"':
            said = ("cache-control: max-age=60", "x-number: 2", 'etag: "1"')
            head = "".join(f"{line}\r\n" for line in said)
            connection.sendall(f"HTTP/1.1 304 Not Modified\r\n{head}\r\n".encode())
            return
        connection.sendall(fields("cache-control: max-age=10", "age: 20", 'etag: "1"', "x-kept: 1"))

    with gateway(answer, route=CACHED) as (client, server, plane):
        assert client.get("/x").headers["age"] == "20"
        again = client.get("/x")
        assert (again.status_code, again.content) == (200, b"abc")
        assert (again.headers["x-number"], again.headers["x-kept"]) == ("2", "1")
        assert again.headers["cache-status"] == "counterfoil; fwd=stale; fwd-status=304; stored"
        assert client.get("/x", headers={"if-none-match": '"1"'}).status_code == 304
        assert "hit" in client.get("/x").headers["cache-status"]
        assert len(server.asked) == 2
        assert plane.state()["cache"]["routes"]["/*"]["revalidated"] == 1


def test_a_client_may_insist_and_a_route_may_be_deaf_to_it() -> None:
    service = always("cache-control: max-age=60")
    with gateway(service, route=CACHED) as (client, server, _):
        alone = client.get("/x", headers={"cache-control": "only-if-cached"})
        assert (alone.status_code, len(server.asked)) == (504, 0)
        client.get("/x")
        for control in ("no-cache", "min-fresh=90"):
            client.get("/x", headers={"cache-control": control})
        assert client.get("/x").headers["x-number"] == "3"
        client.get("/y", headers={"cache-control": "no-store"})
        assert client.get("/y").headers["x-number"] == "5"
    deaf = {"cache": Cache(request_directives=False)}
    with gateway(service, route=deaf) as (client, server, _):
        client.get("/x")
        client.get("/x", headers={"cache-control": "no-cache", "pragma": "no-cache"})
        assert len(server.asked) == 1


def test_a_change_takes_back_what_it_is_about_and_what_its_answer_names() -> None:
    def answer(asked: Asked, connection: socket.socket) -> None:
        if asked.line.startswith("POST"):
            status = "500 No" if "fail" in asked.line else "201 Created"
            connection.sendall(fields("location: /items/1", status=status))
        else:
            connection.sendall(fields("cache-control: max-age=60"))

    with gateway(answer, route=CACHED) as (client, server, _):

        def asks(path: str) -> int:
            before = len(server.asked)
            client.get(path)
            return len(server.asked) - before

        assert [asks("/items"), asks("/items/1"), asks("/items/2"), asks("/fail")] == [1, 1, 1, 1]
        assert client.post("/items", content=b"a").status_code == 201
        assert [asks("/items"), asks("/items/1"), asks("/items/2")] == [1, 1, 0]
        assert client.post("/fail", content=b"a").status_code == 500
        assert asks("/fail") == 0


def test_operators_purge_by_address_by_tag_and_softly() -> None:
    def answer(asked: Asked, connection: socket.socket) -> None:
        tag = (
            "surrogate-key: item-1 all"
            if "/items/1" in asked.line
            else "surrogate-key: item-2, all"
        )
        control = "cache-control: max-age=60, stale-while-revalidate=60"
        number = f"x-number: {len(server.asked)}"
        connection.sendall(fields(control, tag, number))

    with gateway(answer, route=CACHED) as (client, server, plane):

        def numbers() -> list[int]:
            answers = [client.get(path) for path in ("/items/1?a", "/items/2")]
            assert not any("surrogate-key" in each.headers for each in answers)
            return [int(each.headers["x-number"]) for each in answers]

        assert numbers() == numbers() == [1, 2]
        plane.purge(urls=["https://shop.example/items/1?a"])
        assert numbers() == numbers() == [3, 2]
        plane.purge(tags=["item-2"])
        assert numbers() == numbers() == [3, 4]
        with httpx2.Client(base_url=f"http://{plane.admin}") as operator:
            wanted = {"tags": ["all"], "soft": True}
            assert operator.post("/cache/purge", json=wanted).status_code == 401
            operator.headers["authorization"] = "Bearer c"
            assert operator.post("/cache/purge", json={"tag": "all"}).status_code == 400
            purged = operator.post("/cache/purge", json=wanted)
            assert purged.json() == {"urls": 0, "tags": 1, "all": False, "soft": True}
            assert numbers() == [3, 4], "stale, and not gone"
            until(lambda: set(numbers()) == {5, 6})
            assert 'cache_requests_total{route="/*",outcome="hit"}' in operator.get("/metrics").text
        plane.purge(everything=True)
        assert set(numbers()) == {7, 8}
        assert len(server.asked) == 8


def test_an_answer_that_was_on_its_way_when_it_was_purged_is_not_kept() -> None:
    def answer(_: Asked, connection: socket.socket) -> None:
        number = len(server.asked)
        assert number > 1 or go.wait(20)
        connection.sendall(fields("cache-control: max-age=60", f"x-number: {number}"))

    go = threading.Event()
    with gateway(answer, route=CACHED, attempt_timeout_seconds=30.0) as (client, server, plane):
        hung = hanging(plane.listen, 1)
        until(lambda: len(server.asked) == 1)
        plane.purge(urls=["/x"])
        go.set()
        assert [status_of(each) for each in hung] == [200]
        assert client.get("/x").headers["x-number"] == "2"
        assert client.get("/x").headers["x-number"] == "2"


def test_memory_stays_within_its_bound_under_a_scan_and_what_is_hot_stays() -> None:
    body = bytes(10_000)
    room = 1_000_000
    kept = always("cache-control: max-age=600", body=body)
    with gateway(
        kept,
        route={"cache": Cache(max_object_bytes=100_000)},
        settings={"cache_bytes": room},
    ) as (client, server, plane):
        hot = [f"/hot/{number}" for number in range(20)]

        def scan(name: str) -> None:
            for number in range(300):
                client.get(f"/{name}/{number}")
                assert number % 50 or plane.state()["cache"]["bytes"] <= room

        scan("before")
        for _ in range(10):
            for path in hot:
                client.get(path)
        scan("after")  # three times what there is room for, and nothing hot meanwhile
        state = plane.state()["cache"]
        assert room / 2 < state["bytes"] <= room
        assert state["evictions"] > 300
        before = len(server.asked)
        for path in hot:
            client.get(path)
        assert len(server.asked) - before <= 2


def test_a_body_that_is_too_large_passes_through_as_it_comes_and_is_not_kept() -> None:
    seen = threading.Event()

    def answer(asked: Asked, connection: socket.socket) -> None:
        whole = fields("cache-control: max-age=60", body=LARGE)
        if "chunked" in asked.line:
            whole = chunked(LARGE[:700_000], LARGE[700_000:]).replace(
                OK, OK + b"cache-control: max-age=60\r\n"
            )
        half = len(whole) * 3 // 4
        connection.sendall(whole[:half])
        assert seen.wait(20), "what was sent should have reached the client by now"
        connection.sendall(whole[half:])

    with gateway(answer, route=CACHED, attempt_timeout_seconds=30.0) as (client, server, plane):
        for path in ("/sized", "/chunked"):
            seen.clear()
            with client.stream("GET", path) as response:
                parts = response.iter_raw(1024)
                read = next(parts)
                seen.set()
                assert read + b"".join(parts) == LARGE
            assert client.get(path).content == LARGE
        assert len(server.asked) == 4
        assert plane.state()["cache"]["bytes"] < len(LARGE)


def test_what_is_larger_than_the_gateway_holds_is_kept_whole_or_not_at_all() -> None:
    body = LARGE[:900_000]

    def answer(asked: Asked, connection: socket.socket) -> bool:
        whole = fields("cache-control: max-age=60", body=body)
        torn = "torn" in asked.line and len(server.asked) == 1
        connection.sendall(whole[:-1] if torn else whole)
        return not torn

    with gateway(answer, route=CACHED) as (client, server, _):
        assert client.get("/torn").status_code == 502
        for _ in range(2):
            assert client.get("/torn").content == body
        assert len(server.asked) == 2


@pytest.mark.parametrize(
    "field", ["counterfoil-effect: 7", "set-cookie: session=1", "content-type: text/event-stream"]
)
def test_an_answer_that_is_one_clients_own_is_never_kept(field: str, tmp_path: Path) -> None:
    log = tmp_path / "access.jsonl"
    own = always("cache-control: public, max-age=60", field)
    with gateway(own, route=CACHED, access_log=log) as (client, server, _):
        for number in (1, 2):
            assert client.get("/x").headers["x-number"] == str(number)
        assert len(server.asked) == 2
        if "effect" in field:
            stubs = [json.loads(line) for line in log.read_text().splitlines()]
            assert [stub["effect"] for stub in stubs] == ["7", "7"]


def test_a_targeted_field_counts_before_cache_control() -> None:
    targeted = always("cache-control: no-store", "cdn-cache-control: max-age=60")
    with gateway(targeted, route=CACHED) as (client, server, _):
        client.get("/x")
        client.get("/x")
        assert len(server.asked) == 1


class Tenants:
    """Clients with tokens, of a gateway whose service answers as `answer` has it."""

    def __init__(self, answer: Callable[[str, str], bytes]) -> None:
        self._key = ECKey.generate_key("P-256", {"kid": "k1"}, private=True)
        self._answer = answer
        self.asked: list[str] = []

    @contextmanager
    def serving(self) -> Generator[DataPlane, None, None]:
        with gateway(self._serve) as (_, server, _):
            jwks_url = f"http://{server.address}/jwks"
            plane = DataPlane(
                GatewayConfig(
                    listen="127.0.0.1:0",
                    admin="127.0.0.1:0",
                    tls="off",
                    identity=Identity(issuer="me", audience="shop", jwks_url=jwks_url),
                    routes=(Route(path="/*", methods=("GET",), service="s", cache=Cache()),),
                    services={"s": Upstream(attempt_timeout_seconds=30.0)},
                ),
                access_log=None,
                admin_credential="c",
            )
            plane.set_endpoints("s", [("s-1", server.address)])
            self._base = f"http://{plane.listen}"
            until(lambda: self.get("ready", "/ready").status_code == 200)
            self.asked.clear()
            yield plane
            plane.drain(5.0)

    def get(self, tenant: str, path: str) -> httpx2.Response:
        claims = {"iss": "me", "aud": "shop", "exp": int(time.time()) + 60, "tier": "gold"}
        token = jwt.encode({"alg": "ES256", "kid": "k1"}, {**claims, "tenant": tenant}, self._key)
        headers = {"authorization": f"Bearer {token}"}
        return httpx2.get(self._base + path, headers=headers, timeout=30)

    def _serve(self, asked: Asked, connection: socket.socket) -> None:
        _, path, _ = asked.line.split()
        if path == "/jwks":
            keys = {"keys": [{**self._key.as_dict(private=False), "kid": "k1"}]}
            connection.sendall(fields(body=json.dumps(keys).encode()))
            return
        self.asked.append(path)
        connection.sendall(self._answer(path, asked.headers["x-counterfoil-tenant"]))


def test_tenants_get_each_others_answers_only_where_those_say_that_they_are_public() -> None:
    def answer(path: str, tenant: str) -> bytes:
        control = {"/own": "s-maxage=60", "/open": "public, max-age=60"}.get(path, "max-age=60")
        return fields(f"cache-control: {control}", body=tenant.encode())

    tenants = Tenants(answer)
    with tenants.serving() as plane:
        for _ in range(2):
            for tenant in ("ann", "bob"):
                assert tenants.get(tenant, "/own").text == tenant
                assert tenants.get(tenant, "/plain").text == tenant
                assert tenants.get(tenant, "/open").text == "ann"
        assert httpx2.get(f"http://{plane.listen}/open").status_code == 401, "it takes a token too"
    assert sorted(tenants.asked) == ["/open"] + ["/own"] * 2 + ["/plain"] * 4


def test_who_waits_for_what_was_public_gets_no_other_tenants_answer_when_it_no_longer_is() -> None:
    def answer(_: str, tenant: str) -> bytes:
        if len(tenants.asked) == 1:
            return fields("cache-control: public, max-age=60")
        if len(tenants.asked) == 2:
            assert go.wait(20)
        return fields("cache-control: s-maxage=60", body=tenant.encode())

    go = threading.Event()
    tenants = Tenants(answer)
    with tenants.serving() as plane, ThreadPoolExecutor(3) as clients:
        tenants.get("ann", "/x")
        plane.purge(urls=["/x"], soft=True)
        before = plane.state()["requests"]
        names = ["ann", "bob", "eve"]
        answers = [clients.submit(tenants.get, name, "/x") for name in names]
        until(lambda: plane.state()["requests"] == before + 3 and len(tenants.asked) == 2)
        go.set()
        assert [each.result().text for each in answers] == names


def test_a_reload_keeps_what_is_stored() -> None:
    with gateway(always("cache-control: max-age=60"), route=CACHED) as (client, server, plane):
        client.get("/x")
        listen, admin = plane.listen, plane.admin
        route = Route(
            path="/*", methods=("GET",), service="s", identity=False, cache=Cache(cookies=True)
        )
        plane.reload(
            GatewayConfig(
                listen="127.0.0.1:0", admin="127.0.0.1:0", tls="off", routes=(route,), threads=1
            )
        )
        assert (plane.listen, plane.admin) == (listen, admin)
        assert "hit" in client.get("/x").headers["cache-status"]
        assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"min_ttl_seconds": -1.0}, "times of a cache"),
        ({"collapse_wait_seconds": 61.0}, "collapse_wait_seconds"),
        ({"max_object_bytes": 0}, "max_object_bytes"),
        ({"tags_header": "a b"}, "tags_header"),
    ],
)
def test_a_cache_that_can_not_be_is_refused_with_what_to_set(
    wrong: dict[str, object], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        Cache(**wrong)  # type: ignore[arg-type]


def test_a_store_holds_at_least_one_answer() -> None:
    route = Route(path="/x", methods=("GET",), service="s", cache=Cache())
    with pytest.raises(ValueError, match="cache_bytes"):
        GatewayConfig(routes=(route,), cache_bytes=1_000_000)
