"""Early data (0-RTT) over TCP, in HTTP/1.1 and HTTP/2."""

import os
import socket
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from early_tls import PATIENCE, Session, TlsClient
from h2.connection import H2Connection
from h2.events import DataReceived, ResponseReceived, StreamEnded
from secure import Secure, secure
from test_attempts import until
from upstream import LARGE, Asked, sized

from counterfoil.gateway.config import Clients, GatewayConfig, Route

EARLY: dict[str, Any] = {"http3": False, "early_data": True}
PROTOCOLS = ["http/1.1", "h2"]


def answer(asked: Asked, connection: socket.socket) -> None:
    connection.sendall(sized(LARGE if "/large" in asked.line else b"answer"))


@dataclass
class Asking:
    """Requests on one connection: the bytes of each, and what came of them, in their order."""

    protocol: str
    http2: H2Connection = field(default_factory=H2Connection)
    bodies: dict[int, bytes] = field(default_factory=dict[int, bytes])
    statuses: list[int] = field(default_factory=list[int])
    ended: list[int] = field(default_factory=list[int])
    seen: int = 0

    def begin(self) -> bytes:
        if self.protocol == "h2":
            self.http2.initiate_connection()
            self.http2.increment_flow_control_window(len(LARGE))
        return self.http2.data_to_send()

    def request(self, method: str, path: str, body: bytes = b"") -> bytes:
        if self.protocol == "http/1.1":
            length = f"content-length: {len(body)}\r\n" if body else ""
            return f"{method} {path} HTTP/1.1\r\nhost: localhost\r\n{length}\r\n".encode() + body
        stream = self.http2.get_next_available_stream_id()
        pseudo = {"method": method, "path": path, "scheme": "https", "authority": "localhost"}
        head = [(f":{name}", value) for name, value in pseudo.items()]
        self.http2.send_headers(stream, head, end_stream=not body)
        self.http2.increment_flow_control_window(len(LARGE), stream)
        if body:
            self._send(stream, body)
        return self.http2.data_to_send()

    def _send(self, stream: int, body: bytes) -> None:
        """In frames; the gateway's windows hold all of it."""
        size = self.http2.max_outbound_frame_size
        for begin in range(0, len(body), size):
            last = begin + size >= len(body)
            self.http2.send_data(stream, body[begin : begin + size], end_stream=last)

    def answered(self, client: TlsClient) -> list[int]:
        """The statuses of the answers that are there as a whole by now."""
        if self.protocol == "http/1.1":
            return self._answered_one_by_one(client.read)
        fresh, self.seen = client.read[self.seen :], len(client.read)
        for event in self.http2.receive_data(fresh):
            if isinstance(event, ResponseReceived):
                self.statuses.append(int(dict(event.headers)[b":status"]))
            elif isinstance(event, DataReceived):
                so_far = self.bodies.get(event.stream_id, b"")
                self.bodies[event.stream_id] = so_far + event.data
            elif isinstance(event, StreamEnded):
                self.bodies.setdefault(event.stream_id, b"")
                self.ended.append(event.stream_id)
        return self.statuses if len(self.ended) == len(self.statuses) else []

    def _answered_one_by_one(self, read: bytes) -> list[int]:
        statuses: list[int] = []
        while b"\r\n\r\n" in read:
            head, _, read = read.partition(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            if len(read) < length:
                break
            self.bodies[len(statuses)], read = read[:length], read[length:]
            statuses.append(int(head.split()[1]))
        return statuses


def session(gateway: Secure, protocol: str = "http/1.1") -> Session:
    client = TlsClient(gateway.port, protocols=(protocol,))
    client.listen_until(client.session)
    given = client.session()
    client.close()
    assert given is not None
    return given


def returned(gateway: Secure, protocol: str) -> tuple[TlsClient, Asking]:
    """A client that was here before, and has begun to speak in its early data."""
    client = TlsClient(gateway.port, session(gateway, protocol), (protocol,))
    asking = Asking(protocol)
    if begun := asking.begin():
        client.early(begun)
    return client, asking


def counted(gateway: Secure, outcome: str) -> int:
    return gateway.plane.state()["early_requests"][outcome]


def lines(gateway: Secure) -> list[str]:
    return [asked.line.removesuffix(" HTTP/1.1") for asked in gateway.server.asked]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_safe_request_is_answered_before_the_handshake_is_complete(
    tmp_path: Path, protocol: str
) -> None:
    with secure(tmp_path, answer, **EARLY) as gateway:
        client, asking = returned(gateway, protocol)
        client.early(asking.request("GET", "/s/a"))
        client.send()
        # It says nothing more: all that the gateway knows of it is its first flight.
        client.listen_until(lambda: asking.answered(client) == [200], says=False)
        assert gateway.server.asked[0].headers["early-data"] == "1"
        assert client.is_early_data_accepted
        client.write(asking.request("GET", "/s/later"))
        client.listen_until(lambda: asking.answered(client) == [200, 200])
        assert "early-data" not in gateway.server.asked[1].headers
        assert (counted(gateway, "marked"), counted(gateway, "waited")) == (1, 0)
        client.close()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_changes_something_waits_for_the_end_of_the_handshake(
    tmp_path: Path, protocol: str
) -> None:
    with secure(tmp_path, answer, **EARLY) as gateway:
        client, asking = returned(gateway, protocol)
        # By HTTP/1.1 the second stands behind the first, which nobody reads on for meanwhile.
        client.early(asking.request("POST", "/s/a", b"once") + asking.request("POST", "/s/b", b"b"))
        client.send()
        until(lambda: counted(gateway, "waited") == (2 if protocol == "h2" else 1))
        assert gateway.server.asked == []
        client.listen_until(lambda: asking.answered(client) == [200, 200])
        assert client.is_early_data_accepted
        assert sorted(asked.body for asked in gateway.server.asked) == [b"b", b"once"]
        assert not any("early-data" in asked.headers for asked in gateway.server.asked)
        assert (counted(gateway, "marked"), counted(gateway, "refused")) == (0, 0)
        client.close()


def test_a_route_may_let_nothing_pass_before_the_handshake_and_a_tunnel_never_does(
    tmp_path: Path,
) -> None:
    refusing = Route(path="/s/*", methods=("GET",), service="s", identity=False, early_data=False)
    with secure(tmp_path, answer, routes=(refusing,), **EARLY) as gateway:
        client, asking = returned(gateway, "http/1.1")
        client.early(asking.request("GET", "/s/a"))
        client.send()
        until(lambda: counted(gateway, "waited") == 1)
        assert gateway.server.asked == []
        client.listen_until(lambda: asking.answered(client) == [200])
        client.close()
    with secure(tmp_path, answer, **EARLY) as gateway:
        client, _ = returned(gateway, "http/1.1")
        upgrade = b"connection: upgrade\r\nupgrade: websocket\r\n\r\n"
        client.early(b"GET /s/a HTTP/1.1\r\nhost: localhost\r\n" + upgrade)
        client.send()
        until(lambda: counted(gateway, "waited") == 1)
        client.close()


def test_a_request_that_is_whole_only_after_the_handshake_is_none_of_early_data(
    tmp_path: Path,
) -> None:
    with secure(tmp_path, answer, **EARLY) as gateway:
        client, asking = returned(gateway, "http/1.1")
        first, rest = asking.request("GET", "/s/a"), asking.request("GET", "/s/b")
        client.early(first + rest[:10])
        client.send()
        client.listen_until(lambda: asking.answered(client) == [200], says=False)
        client.listen_until(lambda: client.session() is not None)
        client.write(rest[10:])
        client.listen_until(lambda: asking.answered(client) == [200, 200])
        assert lines(gateway) == ["GET /s/a", "GET /s/b"]
        assert ["early-data" in asked.headers for asked in gateway.server.asked] == [True, False]
        client.close()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_body_that_begins_in_early_data_and_goes_on_after_the_handshake_is_whole(
    tmp_path: Path, protocol: str
) -> None:
    body = os.urandom(40_000)
    with secure(tmp_path, answer, **EARLY) as gateway:
        client, asking = returned(gateway, protocol)
        request = asking.request("POST", "/s/a", body)
        begun = 15_000  # more than is read before somebody asks for the body
        client.early(request[:begun])
        client.send()
        until(lambda: counted(gateway, "waited") == 1)
        client.listen_until(lambda: client.is_complete)
        client.write(request[begun:])
        client.listen_until(lambda: asking.answered(client) == [200])
        assert [asked.body for asked in gateway.server.asked] == [body]
        client.close()


def replay(port: int, flight: bytes) -> None:
    """Send a recording from elsewhere, until the gateway has answered and lets go."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as elsewhere:
        elsewhere.sendall(flight)
        assert len(elsewhere.recv(65_536)) > 100
        while elsewhere.recv(65_536):
            pass


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_first_flight_that_is_sent_again_reaches_the_service_once(
    tmp_path: Path, protocol: str
) -> None:
    clients = Clients(head_seconds=1.0)
    with (
        secure(tmp_path / "1", answer, clients=clients, **EARLY) as gateway,
        secure(tmp_path / "2", answer, clients=clients, **EARLY) as other,
    ):
        client, asking = returned(gateway, protocol)
        client.early(asking.request("GET", "/s/a"))
        client.early(asking.request("POST", "/s/a", b"once"))
        flight = client.send()
        until(lambda: lines(gateway) == ["GET /s/a"] and counted(gateway, "waited") == 1)
        # The client says nothing more, as whoever has but the recording can't, and is let go.
        for each in (gateway, gateway, other):
            replay(each.port, flight)
        until(lambda: gateway.plane.state()["connections"] == 0)
        for each in (gateway, other):
            fence, fenced = TlsClient(each.port), Asking("http/1.1")
            fence.listen_until(lambda fence=fence: fence.is_complete)
            fence.write(fenced.request("GET", "/s/fence"))
            fence.listen_until(lambda fence=fence, fenced=fenced: fenced.answered(fence) == [200])
            fence.close()
        assert lines(gateway) == ["GET /s/a", "GET /s/fence"]
        assert lines(other) == ["GET /s/fence"]
        assert (counted(gateway, "marked"), counted(gateway, "waited")) == (1, 1)
        client.close()


def test_a_session_is_good_for_early_data_once(tmp_path: Path) -> None:
    with secure(tmp_path, answer, **EARLY) as gateway:
        given = session(gateway)
        for accepted in (True, False):
            client, asking = TlsClient(gateway.port, given), Asking("http/1.1")
            client.early(asking.request("GET", "/s/a"))
            client.listen_until(lambda client=client: client.is_complete)
            assert client.is_early_data_accepted == accepted
            if not accepted:
                client.write(asking.request("GET", "/s/a"))
            client.listen_until(
                lambda client=client, asking=asking: asking.answered(client) == [200]
            )
            assert ("early-data" in gateway.server.asked[-1].headers) == accepted
            client.close()
        assert len(gateway.server.asked) == 2


def test_early_data_for_another_protocol_than_is_agreed_on_now_is_not_taken(
    tmp_path: Path,
) -> None:
    with secure(tmp_path, answer, **EARLY) as gateway:
        client = TlsClient(gateway.port, session(gateway), ("h2", "http/1.1"))
        client.early(Asking("http/1.1").request("GET", "/s/a"))
        client.listen_until(lambda: client.is_complete)
        assert client.is_resumed
        assert not client.is_early_data_accepted
        asking = Asking("h2")
        client.write(asking.begin() + asking.request("GET", "/s/b"))
        client.listen_until(lambda: asking.answered(client) == [200])
        assert lines(gateway) == ["GET /s/b"]
        client.close()


def test_who_sends_more_early_data_than_is_taken_is_let_go(tmp_path: Path) -> None:
    with secure(tmp_path, answer, **EARLY) as gateway:
        given = session(gateway)
        most = given.max_early_data
        assert most == 16 * 1024
        given.exceed(1 << 20)
        client, asking = TlsClient(gateway.port, given), Asking("http/1.1")
        client.early(asking.request("POST", "/s/a", bytes(most)))
        client.send()
        client.listen_until(lambda: client.ended)
        assert gateway.server.asked == []
        until(lambda: gateway.plane.state()["connections"] == 0)
        client.close()


@pytest.mark.parametrize("says", [b"", b"\x17\x03\x03\x00\x20" + bytes(32)])
def test_a_client_that_does_not_finish_is_let_go_in_the_time_of_a_handshake(
    tmp_path: Path, says: bytes
) -> None:
    with secure(tmp_path, answer, clients=Clients(head_seconds=1.0), **EARLY) as gateway:
        client, asking = returned(gateway, "h2")
        client.early(asking.request("GET", "/s/a") + asking.request("POST", "/s/a", b"never"))
        client.send()
        client.listen_until(lambda: asking.answered(client) == [200], says=False)
        client.socket.sendall(says)
        client.listen_until(lambda: client.ended, says=False)
        assert lines(gateway) == ["GET /s/a"]
        until(lambda: gateway.plane.state()["connections"] == 0)
        client.close()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_large_answer_that_is_taken_late_is_whole(tmp_path: Path, protocol: str) -> None:
    with secure(tmp_path, answer, **EARLY) as gateway:
        client, asking = returned(gateway, protocol)
        client.early(asking.request("GET", "/s/large"))
        client.send()
        until(lambda: counted(gateway, "marked") == 1)
        client.listen_until(lambda: client.read, says=False)
        client.listen_until(lambda: asking.answered(client) == [200])
        assert list(asking.bodies.values()) == [LARGE]
        client.close()


def test_the_last_answer_arrives_and_the_connection_ends_as_it_should(tmp_path: Path) -> None:
    with secure(tmp_path, answer, **EARLY) as gateway:
        client, asking = returned(gateway, "http/1.1")
        client.early(b"GET /s/a HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        client.send()
        client.listen_until(lambda: asking.answered(client) == [200], says=False)
        client.listen_until(lambda: client.ended)
        assert client.ended == "ended"
        client.close()


def test_a_request_that_waits_is_served_through_a_reload_and_a_drain(tmp_path: Path) -> None:
    with secure(tmp_path, answer, **EARLY) as gateway:
        client, asking = returned(gateway, "http/1.1")
        client.early(asking.request("POST", "/s/a", b"once"))
        client.send()
        until(lambda: counted(gateway, "waited") == 1)
        gateway.plane.reload(gateway.config)
        draining = threading.Thread(target=gateway.plane.drain, args=(PATIENCE,))
        draining.start()
        until(lambda: gateway.plane.state()["draining"])
        client.listen_until(lambda: asking.answered(client) == [200])
        assert len(gateway.server.asked) == 1
        client.close()
        draining.join(PATIENCE)
        assert not draining.is_alive()


def test_the_header_of_a_balancer_comes_before_early_data(tmp_path: Path) -> None:
    balancer: dict[str, Any] = {"proxy_protocol": True, "trusted_proxies": ("127.0.0.1",)}
    header = b"PROXY TCP4 192.0.2.7 192.0.2.8 40000 443\r\n"

    def announced(given: Session | None) -> TlsClient:
        client = TlsClient(gateway.port, given)
        client.socket.sendall(header)
        return client

    with secure(tmp_path, answer, **EARLY, **balancer) as gateway:
        first = announced(None)
        first.listen_until(first.session)
        client, asking = announced(first.session()), Asking("http/1.1")
        client.early(asking.request("GET", "/s/a"))
        client.send()
        client.listen_until(lambda: asking.answered(client) == [200], says=False)
        asked = gateway.server.asked[0]
        assert asked.headers["x-forwarded-for"] == "192.0.2.7"
        assert asked.headers["early-data"] == "1"
        first.close()
        client.close()


def test_a_first_flight_in_pieces_is_put_together(tmp_path: Path) -> None:
    with secure(tmp_path, answer, **EARLY) as gateway:
        client, asking = returned(gateway, "http/1.1")
        client.early(asking.request("GET", "/s/a"))
        flight = client.flight()
        client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for begin in range(0, len(flight), 50):
            client.socket.sendall(flight[begin : begin + 50])
        client.listen_until(lambda: asking.answered(client) == [200], says=False)
        assert client.is_early_data_accepted
        client.close()


@pytest.mark.parametrize("shares", [False, True])
def test_there_is_none_without_the_setting_nor_where_gateways_share_sessions(
    tmp_path: Path, shares: bool
) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(os.urandom(32))
    settings: dict[str, Any] = {"early_data": True, "ticket_secret": str(secret)}
    with secure(tmp_path, answer, **settings if shares else {}) as gateway:
        given = session(gateway)
        assert given.max_early_data == 0
        client = TlsClient(gateway.port, given)
        client.listen_until(lambda: client.is_complete)
        assert client.is_resumed
        client.close()


def test_a_setting_that_would_have_no_effect_is_refused_with_its_remedy() -> None:
    with pytest.raises(ValueError, match="leave one of them out, or set http3 = true"):
        GatewayConfig(early_data=True, ticket_secret="secret")
    with pytest.raises(ValueError, match="early_data needs TLS"):
        GatewayConfig(early_data=True, tls="off")
