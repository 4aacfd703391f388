"""How long connections to instances are kept, and what becomes of requests that meet their end."""

import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import http2_upstream
import pytest
import test_http2_upstream
from sharing import until
from upstream import OK, Asked, gateway, sized

KEPT: dict[str, Any] = {"connection_idle_seconds": 60.0}


def good(_: Asked, connection: socket.socket) -> None:
    connection.sendall(sized(b"good"))


def saying(keep_alive: bytes) -> Callable[[Asked, socket.socket], None]:
    answer = OK + b"keep-alive: %s\r\ncontent-length: 4\r\n\r\ngood" % keep_alive
    return lambda _, connection: connection.sendall(answer)


@pytest.mark.parametrize("setting", ["connection_idle_seconds", "connection_age_seconds"])
def test_a_connection_is_let_go_of_without_a_request_that_finds_it(setting: str) -> None:
    protection: dict[str, Any] = KEPT | {setting: 0.05}
    with gateway(good, **protection) as (client, server, _):
        assert client.get("/x").content == b"good"
        until(lambda: server.connections[0].fileno() == -1)
        assert client.get("/x").content == b"good"
        assert len(server.connections) == 2


@pytest.mark.parametrize("setting", ["connection_idle_seconds", "connection_age_seconds"])
def test_a_connection_of_http2_is_let_go_of_without_a_request_that_finds_it(setting: str) -> None:
    settings: dict[str, Any] = KEPT | {setting: 0.05}
    with test_http2_upstream.gateway(test_http2_upstream.good, **settings) as (client, server, _):
        assert client.get("/x").content == b"good"
        until(lambda: server.connections[0].socket.fileno() == -1)
        assert client.get("/x").content == b"good"
        assert len(server.connections) == 2


def test_what_is_under_way_goes_on_when_its_connection_is_too_old() -> None:
    waiting: list[tuple[http2_upstream.Asked, http2_upstream.Connection]] = []

    def answer(asked: http2_upstream.Asked, connection: http2_upstream.Connection) -> None:
        if asked.headers[":path"] == "/slow":
            waiting.append((asked, connection))
        else:
            connection.respond(asked, b"good")

    settings: dict[str, Any] = KEPT | {
        "connection_age_seconds": 0.05,
        "attempt_timeout_seconds": 20.0,
    }
    with (
        test_http2_upstream.gateway(answer, **settings) as (client, server, _),
        ThreadPoolExecutor(1) as pool,
    ):
        slow = pool.submit(client.get, "/slow")
        until(lambda: waiting)
        until(lambda: client.get("/x").content == b"good" and len(server.connections) > 1)
        asked, connection = waiting[0]
        assert connection is server.connections[0]
        connection.respond(asked, b"at last")
        assert slow.result().content == b"at last"


@pytest.mark.parametrize(
    ("keep_alive", "connections"), [(b"timeout=1", 2), (b"max=9, Timeout=60", 1)]
)
def test_an_instance_that_says_how_long_it_waits_is_believed(
    keep_alive: bytes, connections: int
) -> None:
    with gateway(saying(keep_alive), **KEPT) as (client, server, _):
        for _ in range(2):
            assert client.get("/x").content == b"good"
        assert len(server.connections) == connections


def test_what_meets_the_end_of_an_idle_connection_is_sent_again_if_it_may_be() -> None:
    begun: set[socket.socket] = set()

    def hanging_up(asked: Asked, connection: socket.socket) -> bool | None:
        """Ends each connection when a second request comes on it, as if they had crossed."""
        if connection in begun:
            return False
        begun.add(connection)
        return good(asked, connection)

    protection: dict[str, Any] = KEPT | {"attempts": 1, "breaker_failures": 1, "retry_budget": 0}
    with gateway(hanging_up, **protection) as (client, server, plane):
        for number in range(1, 4):
            assert client.get("/x").content == b"good"
            assert len(server.connections) == number
        key = {"idempotency-key": "k"}
        assert client.post("/x", content=b"body", headers=key).content == b"good"
        assert [asked.body for asked in server.asked[-2:]] == [b"body", b"body"]
        service = plane.state()["services"]["s"]
        assert service["endpoints"][0]["breaker"] == "closed"
        # Nobody knows whether this one was carried out.
        assert client.post("/x", content=b"body").status_code == 502
        assert len(server.connections) == 4
