"""Streams of HTTP/2 towards clients: what they hold, and what they may become."""

import socket
import time
from collections.abc import Callable
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest
from upstream import Asked, gateway, sized

from counterfoil.gateway.config import Clients
from counterfoil.gateway.data_plane import DataPlane

WINDOW = h2.settings.SettingCodes.INITIAL_WINDOW_SIZE
CONNECT_ALLOWED = h2.settings.SettingCodes.ENABLE_CONNECT_PROTOCOL
WHOLE = b"x" * 250_000
"""An answer that is read whole before any of it leaves."""


class Client:
    """One connection without TLS, on which nothing is done by itself."""

    def __init__(self, plane: DataPlane, window: int | None = None) -> None:
        host, _, port = plane.listen.partition(":")
        self.socket = socket.create_connection((host, int(port)), timeout=20)
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="ascii"))
        if window is not None:
            self.h2.local_settings = h2.settings.Settings(True, {WINDOW: window})
        self.h2.initiate_connection()
        self.flush()
        self.events: list[h2.events.Event] = []

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def flush(self) -> None:
        self.socket.sendall(self.h2.data_to_send())

    def ask(self, method: str, path: str, *more: tuple[str, str], last: bool = True) -> int:
        stream = self.h2.get_next_available_stream_id()
        head = [(":method", method), (":scheme", "http"), (":path", path), (":authority", "h")]
        self.h2.send_headers(stream, [*head, *more], end_stream=last)
        self.flush()
        return stream

    def until(self, reached: Callable[[], object]) -> None:
        deadline = time.monotonic() + 20
        while not reached():
            assert time.monotonic() < deadline, self.events
            try:
                data = self.socket.recv(65_536)
            except TimeoutError:
                raise AssertionError(self.events) from None
            assert data, "the connection has ended"
            self.events += self.h2.receive_data(data)
            self.flush()

    def all(self, kind: type[h2.events.Event], stream: int | None = None) -> list[Any]:
        found: list[Any] = [each for each in self.events if isinstance(each, kind)]
        return [each for each in found if stream in (None, getattr(each, "stream_id", None))]

    def status(self, stream: int) -> str:
        """Of the answer, which is waited for."""
        self.until(lambda: self.all(h2.events.ResponseReceived, stream))
        return dict(self.all(h2.events.ResponseReceived, stream)[0].headers)[":status"]


def whole(_: Asked, connection: socket.socket) -> None:
    connection.sendall(sized(WHOLE))


def page(_: Asked, connection: socket.socket) -> None:
    connection.sendall(sized(b"a page"))


@pytest.mark.parametrize("window", [0, 1])
def test_an_answer_of_which_a_client_takes_no_more_than_a_little_is_broken_off(window: int) -> None:
    patient = Clients(head_seconds=20.0, idle_seconds=20.0, stall_seconds=0.3)
    with (
        gateway(whole, settings={"clients": patient}) as (_, _, plane),
        Client(plane, window) as client,
    ):
        stalled = client.ask("GET", "/x")
        client.until(lambda: client.all(h2.events.StreamReset, stalled))
        assert sum(len(each.data) for each in client.all(h2.events.DataReceived)) == window
        assert client.status(client.ask("HEAD", "/x")) == "200", "the connection goes on"


def connect_to(client: Client, protocol: str) -> int:
    client.until(lambda: client.h2.remote_settings.get(CONNECT_ALLOWED))
    asked = [(":protocol", protocol), ("sec-websocket-version", "13")]
    return client.ask("CONNECT", "/x", *asked, last=False)


def test_a_service_that_answers_in_place_of_going_over_is_not_taken_for_a_tunnel() -> None:
    with gateway(page) as (_, server, plane), Client(plane) as client:
        assert client.status(connect_to(client, "websocket")) == "502"
        assert len(server.asked) == 1


@pytest.mark.parametrize(("offered", "asked"), [((), "websocket"), (("websocket",), "connect-udp")])
def test_a_protocol_that_is_not_offered_is_refused_before_its_service_is_asked(
    offered: tuple[str, ...], asked: str
) -> None:
    with (
        gateway(page, route={"upgrades": offered}) as (_, server, plane),
        Client(plane) as client,
    ):
        assert client.status(connect_to(client, asked)) == "501"
        assert not server.asked
