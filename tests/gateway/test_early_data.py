"""Early data (0-RTT) over HTTP/3: what comes before anybody knows that it isn't a recording."""

import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aioquic.h3.connection import H3_ALPN
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import ConnectionTerminated, HandshakeCompleted
from aioquic.tls import SessionTicket
from clients import Answer, HeadAware, request
from secure import Secure, secure
from test_attempts import until
from upstream import OK, Asked, gateway, sized

from counterfoil.gateway.config import Cache, Clients, GatewayConfig, Limit, Route

PATIENCE = 20.0
EARLY: dict[str, Any] = {"http3": True, "early_data": True}


def answer(asked: Asked, connection: socket.socket) -> None:
    connection.sendall(sized(b"answer"))


class Client:
    """HTTP/3 by aioquic, on a socket of which a test decides what it sends and when it listens."""

    def __init__(self, gateway: Secure, ticket: SessionTicket | None = None) -> None:
        configuration = QuicConfiguration(
            is_client=True,
            alpn_protocols=H3_ALPN,
            server_name="localhost",
            session_ticket=ticket,
        )
        configuration.load_verify_locations(str(gateway.authority))
        self.tickets: list[SessionTicket] = []
        self.quic = QuicConnection(
            configuration=configuration, session_ticket_handler=self.tickets.append
        )
        self.address = ("127.0.0.1", gateway.port)
        self.quic.connect(self.address, now=time.monotonic())
        self.h3 = HeadAware(self.quic)
        self.answers: dict[int, Answer] = {}
        self.early_data_accepted: bool | None = None
        """None until the handshake is complete."""
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.connect(self.address)

    def begin(self, method: str, path: str, body: bytes = b"") -> Answer:
        """A request that leaves with the next flight."""
        stream = self.quic.get_next_available_stream_id()
        self.answers[stream] = Answer()
        if method == "HEAD":
            self.h3.heads.add(stream)
        head = [(name.encode(), value.encode()) for name, value in request(method, path)]
        self.h3.send_headers(stream, head, end_stream=not body)
        if body:
            self.h3.send_data(stream, body, end_stream=True)
        return self.answers[stream]

    def flight(self) -> list[bytes]:
        """The datagrams that are to be sent now."""
        return [datagram for datagram, _ in self.quic.datagrams_to_send(now=time.monotonic())]

    def send(self) -> list[bytes]:
        sent = self.flight()
        for datagram in sent:
            self.socket.send(datagram)
        return sent

    def listen_until(self, condition: Callable[[], object]) -> None:
        """Take what comes, and say what that asks for."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, "what was waited for did not happen"
            self.send()
            self.socket.settimeout(0.05)
            try:
                received = self.socket.recv(65_536)
                self.quic.receive_datagram(received, self.address, now=time.monotonic())
            except TimeoutError:
                self.quic.handle_timer(now=time.monotonic())
            self.look()
        self.send()

    def look(self) -> None:
        while event := self.quic.next_event():
            assert not isinstance(event, ConnectionTerminated), event
            if isinstance(event, HandshakeCompleted):
                self.early_data_accepted = event.early_data_accepted
            for each in self.h3.handle_event(event):
                if isinstance(each, HeadersReceived):
                    self.answers[each.stream_id].head(each.headers)
                elif isinstance(each, DataReceived):
                    self.answers[each.stream_id].body += each.data
                if isinstance(each, HeadersReceived | DataReceived) and each.stream_ended:
                    self.answers[each.stream_id].ended.set()

    def close(self) -> None:
        self.quic.close()
        self.send()
        self.socket.close()


def session(gateway: Secure) -> SessionTicket:
    """By which a client that was here before can come back."""
    client = Client(gateway)
    client.listen_until(lambda: client.tickets)
    client.close()
    return client.tickets[0]


def counted(gateway: Secure, outcome: str) -> int:
    return gateway.plane.state()["early_requests"][outcome]


def seen(gateway: Secure, method: str) -> list[Asked]:
    return [asked for asked in gateway.server.asked if asked.line.startswith(f"{method} ")]


def test_a_safe_request_is_answered_before_the_handshake_is_complete(tmp_path: Path) -> None:
    with secure(tmp_path, answer, **EARLY) as gateway:
        client = Client(gateway, session(gateway))
        answers = [client.begin(method, "/s/a") for method in ("GET", "HEAD")]
        client.send()
        # It has not listened yet: all that the gateway knows of it is its first flight.
        until(lambda: len(gateway.server.asked) == 2)
        assert [asked.headers["early-data"] for asked in gateway.server.asked] == ["1", "1"]
        client.listen_until(lambda: all(each.ended.is_set() for each in answers))
        assert [each.status for each in answers] == [200, 200]
        assert client.early_data_accepted
        later = client.begin("GET", "/s/later")
        client.listen_until(later.ended.is_set)
        assert "early-data" not in gateway.server.asked[-1].headers
        assert (counted(gateway, "marked"), counted(gateway, "waited")) == (2, 0)
        client.close()


def test_what_changes_something_waits_for_the_end_of_the_handshake(tmp_path: Path) -> None:
    refusing = Route(
        path="/s/never", methods=("GET",), service="s", identity=False, early_data=False
    )
    usual = Route(path="/s/*", methods=("POST",), service="s", identity=False)
    with secure(tmp_path, answer, routes=(usual, refusing), **EARLY) as gateway:
        client = Client(gateway, session(gateway))
        answers = [client.begin("POST", "/s/a", b"once"), client.begin("GET", "/s/never")]
        client.send()
        until(lambda: counted(gateway, "waited") == 2)
        assert gateway.server.asked == []
        client.listen_until(lambda: all(each.ended.is_set() for each in answers))
        assert client.early_data_accepted
        assert [each.status for each in answers] == [200, 200]
        assert [asked.body for asked in seen(gateway, "POST")] == [b"once"]
        assert not any("early-data" in asked.headers for asked in gateway.server.asked)
        assert counted(gateway, "marked") == 0
        client.close()


def replay(gateway: Secure, flight: list[bytes]) -> None:
    """Send a recording from elsewhere, and wait until the gateway has answered to it as to a client
    that begins anew."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as elsewhere:
        elsewhere.settimeout(0.1)

        def is_answered() -> bool:
            for datagram in flight:
                elsewhere.sendto(datagram, ("127.0.0.1", gateway.port))
            try:
                return len(elsewhere.recv(65_536)) > 1_000  # the part of a handshake with its keys
            except TimeoutError:
                return False

        until(is_answered)


def test_a_first_flight_that_is_sent_again_reaches_the_service_once(tmp_path: Path) -> None:
    clients = Clients(head_seconds=1.0)
    with (
        secure(tmp_path / "1", answer, clients=clients, **EARLY) as gateway,
        secure(tmp_path / "2", answer, clients=clients, **EARLY) as other,
    ):
        client = Client(gateway, session(gateway))
        client.begin("GET", "/s/a")
        client.begin("POST", "/s/a", b"once")
        flight = client.send()
        until(lambda: seen(gateway, "GET") and counted(gateway, "waited") == 1)
        for datagram in flight:
            client.socket.send(datagram)
        # The client says nothing more, as whoever has but the recording can't.
        until(lambda: gateway.plane.state()["connections"] == 0)
        replay(gateway, flight)
        replay(other, flight)
        for each in (gateway, other):
            fence = Client(each)
            fenced = fence.begin("GET", "/s/fence")
            fence.listen_until(fenced.ended.is_set)
            fence.close()
        assert [asked.line for asked in gateway.server.asked] == [
            "GET /s/a HTTP/1.1",
            "GET /s/fence HTTP/1.1",
        ]
        assert [asked.line for asked in other.server.asked] == ["GET /s/fence HTTP/1.1"]
        assert (counted(gateway, "marked"), counted(gateway, "waited")) == (1, 1)
        client.socket.close()


def test_a_session_is_good_for_early_data_once(tmp_path: Path) -> None:
    with secure(tmp_path, answer, **EARLY) as gateway:
        ticket = session(gateway)
        for accepted in (True, False):
            client = Client(gateway, ticket)
            answered = client.begin("GET", "/s/a")
            client.listen_until(answered.ended.is_set)
            assert answered.status == 200
            assert client.early_data_accepted == accepted
            assert ("early-data" in gateway.server.asked[-1].headers) == accepted
            client.close()


def test_limits_hold_for_early_requests_too(tmp_path: Path) -> None:
    limited = Route(path="/s/*", methods=("GET",), service="s", identity=False, limits=("address",))
    limits = {"address": Limit(key="address", rate=0.001, burst=1)}
    with secure(tmp_path, answer, routes=(limited,), limits=limits, **EARLY) as gateway:
        client = Client(gateway, session(gateway))
        answers = [client.begin("GET", "/s/a") for _ in range(3)]
        client.listen_until(lambda: all(each.ended.is_set() for each in answers))
        assert sorted(each.status for each in answers) == [200, 429, 429]
        client.close()


def test_a_request_that_waits_is_served_through_a_reload_and_a_drain(tmp_path: Path) -> None:
    with secure(tmp_path, answer, **EARLY) as gateway:
        client = Client(gateway, session(gateway))
        waiting = client.begin("POST", "/s/a", b"once")
        client.send()
        until(lambda: counted(gateway, "waited") == 1)
        gateway.plane.reload(gateway.config)
        draining = threading.Thread(target=gateway.plane.drain, args=(PATIENCE,))
        draining.start()
        until(lambda: gateway.plane.state()["draining"])
        client.listen_until(waiting.ended.is_set)
        assert (waiting.status, len(gateway.server.asked)) == (200, 1)
        client.close()
        draining.join(PATIENCE)
        assert not draining.is_alive()


def test_without_the_setting_there_is_no_early_data(tmp_path: Path) -> None:
    with secure(tmp_path, answer) as gateway:
        assert session(gateway).max_early_data_size is None
    with pytest.raises(ValueError, match="early_data needs TLS"):
        GatewayConfig(early_data=True, tls="off")


def test_what_a_proxy_before_took_early_is_marked_or_refused() -> None:
    told = [("early-data", "yes"), ("early-data", "1"), ("connection", "early-data")]
    with gateway(answer) as (client, server, plane):
        assert client.get("/a", headers=told).status_code == 200
        assert server.asked[0].headers["early-data"] == "1"
        refused = client.post("/a", headers=told, content=b"once")
        assert refused.status_code == 425
        assert refused.headers["content-type"] == "application/problem+json"
        assert len(server.asked) == 1
        assert plane.state()["early_requests"] == {"marked": 1, "waited": 0, "refused": 1}
        assert client.post("/a", content=b"once").status_code == 200


def test_a_425_of_the_service_is_passed_on_and_never_kept() -> None:
    def careful(asked: Asked, connection: socket.socket) -> None:
        if "early-data" in asked.headers:
            head = b"HTTP/1.1 425 Too Early\r\ncache-control: max-age=60\r\n"
            connection.sendall(head + b"content-length: 0\r\n\r\n")
        else:
            connection.sendall(OK + b"cache-control: max-age=60\r\ncontent-length: 1\r\n\r\na")

    with gateway(careful, route={"cache": Cache()}) as (client, server, _):
        assert client.get("/a", headers={"early-data": "1"}).status_code == 425
        assert client.get("/a").status_code == 200
        assert client.get("/a", headers={"early-data": "1"}).status_code == 200
        assert len(server.asked) == 2
