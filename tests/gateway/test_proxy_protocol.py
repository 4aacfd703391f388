"""Connections that a load balancer passes on: whose they are, and who may say so."""

import ipaddress
import shutil
import socket
import ssl
import struct
import subprocess
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest
from clients import tls
from secure import secure
from sharing import until
from upstream import Asked, gateway, sized

from counterfoil.gateway.config import Clients, GatewayConfig, Limit
from counterfoil.gateway.data_plane import DataPlane

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
LINE = b"PROXY TCP4 192.0.2.7 10.0.0.1 4711 443\r\n"
ASKED = b"GET /a HTTP/1.1\r\nhost: shop.test\r\nconnection: close\r\n\r\n"


def block(source: str, *, command: int = 0x21, more: bytes = b"") -> bytes:
    """Version 2, of a connection over TCP."""
    address = ipaddress.ip_address(source)
    addresses = address.packed * 2 + struct.pack("!HH", 4711, 443) + more
    family = 0x11 if address.version == 4 else 0x21
    return SIGNATURE + struct.pack("!BBH", command, family, len(addresses)) + addresses


def answer(_: Asked, connection: socket.socket) -> None:
    connection.sendall(sized(b"good"))


@contextmanager
def announced(
    *, route: dict[str, Any] | None = None, trusted: str = "127.0.0.0/8", **settings: Any
) -> Generator[tuple[DataPlane, list[Asked]], None, None]:
    """A gateway behind a balancer, and what its service is asked."""
    ours = {"proxy_protocol": True, "trusted_proxies": (trusted,)} | settings
    with gateway(answer, settings=ours, route=route) as (_, server, plane):
        yield plane, server.asked


def connected(plane: DataPlane) -> socket.socket:
    host, _, port = plane.listen.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=20)


def said(plane: DataPlane, *parts: bytes) -> bytes:
    """What comes back on a connection on which these parts are sent."""
    with connected(plane) as connection:
        with suppress(ConnectionError):
            for part in parts:
                connection.sendall(part)
        return rest(connection)


def rest(connection: socket.socket) -> bytes:
    read = b""
    with suppress(ConnectionResetError):
        while part := connection.recv(65_536):
            read += part
    return read


def served(answered: bytes) -> bool:
    return answered.startswith(b"HTTP/1.1 200 ") and answered.endswith(b"good")


@pytest.mark.parametrize(
    ("header", "address"),
    [
        (LINE, "192.0.2.7"),
        (b"PROXY TCP6 2001:db8::7 fd00::1 1 443\r\n", "2001:db8::7"),
        (block("192.0.2.8"), "192.0.2.8"),
        (block("2001:db8::8", more=b"\x04\x00\x05hello"), "2001:db8::8"),
        (block("::ffff:192.0.2.9"), "192.0.2.9"),
        (b"PROXY UNKNOWN\r\n", "127.0.0.1"),
        (block("192.0.2.8", command=0x20), "127.0.0.1"),
        (SIGNATURE + b"\x20\x00\x00\x00", "127.0.0.1"),
        (SIGNATURE + b"\x21\x00\x00\x00", "127.0.0.1"),
    ],
)
def test_a_request_comes_from_whom_the_header_says(header: bytes, address: str) -> None:
    with announced() as (plane, asked):
        assert served(said(plane, header + ASKED))
        assert asked[0].headers["x-forwarded-for"] == address
        assert plane.state()["unannounced"] == 0


@pytest.mark.parametrize("header", [LINE, block("192.0.2.7")])
def test_a_header_may_come_byte_by_byte(header: bytes) -> None:
    with announced() as (plane, asked):
        assert served(said(plane, *(bytes([each]) for each in header), ASKED))
        assert asked[0].headers["x-forwarded-for"] == "192.0.2.7"


@pytest.mark.parametrize(
    "beginning",
    [
        ASKED,
        b"PROXY TCP4 192.0.2.7 10.0.0.1 4711\r\n" + ASKED,
        b"PROXY TCP4 192.0.2.7 10.0.0.1 4711 443\n" + ASKED + b" " * 200,
        SIGNATURE + b"\x31\x11\x00\x0c" + bytes(12) + ASKED,
        SIGNATURE + b"\x21\x11\xff\xff" + bytes(12) + ASKED,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
def test_a_connection_without_a_header_is_let_go(
    beginning: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    with announced() as (plane, asked):
        assert said(plane, beginning) == b""
        assert asked == []
        assert plane.state()["unannounced"] == 1
        assert served(said(plane, LINE + ASKED)), "others are served"
    assert "connection_not_announced" in capfd.readouterr().err


def test_a_client_can_not_announce_itself_beside_the_balancer() -> None:
    with announced(trusted="192.0.2.0/24") as (plane, asked):
        assert said(plane, LINE + ASKED) == b""
        assert asked == []
        assert plane.state()["unannounced"] == 1


def test_a_client_can_not_announce_itself_through_the_balancer() -> None:
    with announced() as (plane, asked):
        answered = said(plane, LINE + b"PROXY TCP4 203.0.113.1 10.0.0.1 1 2\r\n" + ASKED)
        assert answered.startswith(b"HTTP/1.1 400 ")
        forwarded = ASKED.replace(b"\r\n\r\n", b"\r\nx-forwarded-for: 203.0.113.1\r\n\r\n")
        assert served(said(plane, LINE + forwarded))
        assert [each.headers["x-forwarded-for"] for each in asked] == ["192.0.2.7"]


def test_who_dawdles_with_the_header_is_cut_off_and_who_says_nothing_is_no_fault() -> None:
    with announced(clients=Clients(head_seconds=0.3)) as (plane, _):
        with connected(plane) as dawdling:
            dawdling.sendall(LINE[:10])
            assert rest(dawdling) == b""
        assert plane.state()["unannounced"] == 1
        for linger in (False, True):  # as balancers do to see whether somebody is there
            with connected(plane) as silent:
                silent.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", linger, 0))
        until(lambda: plane.state()["connections"] == 0)
        assert served(said(plane, LINE + ASKED))
        assert plane.state()["unannounced"] == 1


def test_limits_and_networks_go_by_the_address_that_was_told() -> None:
    each = Limit(key="address", rate=0.001, burst=1)
    route = {"limits": ("each",), "deny": ("198.51.100.0/24",)}
    with announced(route=route, limits={"each": each}) as (plane, _):

        def status(source: str) -> int:
            return int(said(plane, block(source) + ASKED).split()[1])

        assert [status("192.0.2.1"), status("192.0.2.1"), status("192.0.2.2")] == [200, 429, 200]
        assert status("198.51.100.1") == 403


def test_connections_are_counted_for_the_address_that_was_told() -> None:
    with announced(clients=Clients(connections_per_address=1)) as (plane, _):
        kept = ASKED.replace(b"close", b"keep-alive")
        with connected(plane) as first:
            first.sendall(block("192.0.2.1") + kept)
            assert first.recv(65_536).startswith(b"HTTP/1.1 200 ")
            assert said(plane, block("192.0.2.1") + ASKED) == b""
            assert plane.state()["turned_away"] == 1
            assert served(said(plane, block("192.0.2.2") + ASKED))
        until(lambda: served(said(plane, block("192.0.2.1") + ASKED)))


@pytest.mark.parametrize("protocol", ["http/1.1", "h2"])
def test_the_header_comes_before_tls(tmp_path: Path, protocol: str) -> None:
    settings = {"http3": False, "proxy_protocol": True, "trusted_proxies": ("127.0.0.1",)}
    with secure(tmp_path, answer, **settings) as running:
        context = tls(running.authority, protocol)
        with connected(running.plane) as plain:
            plain.sendall(block("192.0.2.7"))
            with context.wrap_socket(plain, server_hostname="localhost") as secured:
                assert secured.selected_alpn_protocol() == protocol
                if protocol == "http/1.1":
                    secured.sendall(ASKED.replace(b"/a", b"/s/a"))
                    assert served(rest(secured))
                    asked = running.server.asked[0]
                    assert asked.headers["x-forwarded-for"] == "192.0.2.7"
        with connected(running.plane) as plain, pytest.raises((ssl.SSLError, OSError)):
            context.wrap_socket(plain, server_hostname="localhost")


@pytest.mark.skipif(shutil.which("haproxy") is None, reason="haproxy is not installed")
@pytest.mark.parametrize("version", ["send-proxy", "send-proxy-v2"])
def test_haproxy_is_understood(tmp_path: Path, version: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with announced() as (plane, asked):
        configuration = tmp_path / "haproxy.cfg"
        configuration.write_text(
            "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 5s\n  timeout server 5s\n"
            f"listen gateway\n  bind 127.0.0.1:{port}\n"
            f"  server gateway {plane.listen} {version} check inter 100ms\n"
        )
        command = ["haproxy", "-db", "-f", str(configuration)]
        running = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            transport = httpx2.HTTPTransport(local_address="127.0.0.9")
            with httpx2.Client(transport=transport, timeout=20) as client:

                def is_up() -> bool:
                    with suppress(httpx2.TransportError):
                        return client.get(f"http://127.0.0.1:{port}/a").text == "good"
                    return False

                until(is_up)
        finally:
            running.terminate()
            running.wait()
        assert asked[-1].headers["x-forwarded-for"] == "127.0.0.9"
        assert plane.state()["unannounced"] == 0


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"proxy_protocol": True}, "say in trusted_proxies who may send it"),
        ({"proxy_protocol": True, "trusted_hops": 1}, "say in trusted_proxies who may send it"),
        (
            {"proxy_protocol": True, "trusted_proxies": ["10.0.0.0/8"], "http3": True},
            "leave http3 out",
        ),
    ],
)
def test_settings_that_would_let_clients_say_who_they_are_are_refused(
    settings: dict[str, Any], says: str
) -> None:
    with pytest.raises(msgspec.ValidationError, match=says):
        msgspec.convert(settings, GatewayConfig)
