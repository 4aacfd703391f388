"""Who waits for an answer that is not in the cache yet, and who gets a stale one at once."""

import socket
import threading
import time

import pytest
from caching import CACHED, fields, hanging, status_of
from sharing import until
from upstream import Asked, gateway

from counterfoil.gateway.config import Cache


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
