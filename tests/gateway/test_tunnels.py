"""WebSockets through the real data plane, with a library's client and server at its ends."""

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

import h2.config
import h2.connection
import h2.settings
import httpx2
import pytest
from h2.events import DataReceived, ResponseReceived, StreamEnded
from secure import secure
from upstream import OK, Asked, gateway
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Frame, Opcode
from websockets.http11 import Request, Response
from websockets.sync.client import ClientConnection, connect
from websockets.sync.server import Server, ServerConnection, serve

from counterfoil.gateway.config import GatewayConfig, Limit, Route
from counterfoil.gateway.data_plane import DataPlane
from counterfoil.gateway.services import Upstream

MEBIBYTE = 1024 * 1024


def behave(connection: ServerConnection) -> None:
    """Send back what comes; do as the path says, or as a text does."""
    path = connection.request.path if connection.request else ""
    if path.startswith("/flood"):
        with contextlib.suppress(ConnectionClosed):
            for _ in range(64):
                connection.send(bytes(MEBIBYTE))
                FLOODED.append(MEBIBYTE)
        return
    for message in connection:
        if message == "close":
            connection.close(4001, "as asked")
            return
        connection.send(message)


FLOODED: list[int] = []


def refuse(connection: ServerConnection, request: Request) -> Response | None:
    if request.path == "/refused":
        return connection.respond(HTTPStatus.FORBIDDEN, "not you")
    return None


@pytest.fixture(scope="module")
def server() -> Generator[Server, None, None]:
    with serve(behave, "127.0.0.1", 0, process_request=refuse, max_size=None) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def start(server: Server, **protection: object) -> DataPlane:
    host, port = server.socket.getsockname()
    plane = DataPlane(
        GatewayConfig(
            listen="127.0.0.1:0",
            admin="127.0.0.1:0",
            tls="off",
            limits={"one": Limit(key="address", rate=0.001, burst=1)},
            routes=(
                Route(
                    path="/limited", methods=("GET",), service="s", identity=False, limits=("one",)
                ),
                Route(path="/plain", methods=("GET",), service="s", identity=False, upgrades=()),
                Route(path="/*", methods=("GET",), service="s", identity=False),
            ),
            services={"s": Upstream(**protection)},  # type: ignore[arg-type]
        ),
        access_log=None,
        admin_credential="c",
    )
    plane.set_endpoints("s", [("s-1", f"{host}:{port}")])
    return plane


@contextmanager
def plane(server: Server, **protection: object) -> Generator[DataPlane, None, None]:
    plane = start(server, **protection)
    yield plane
    plane.drain(5.0)


def dial(plane: DataPlane, path: str = "/echo") -> ClientConnection:
    return connect(f"ws://{plane.listen}{path}", max_size=None, open_timeout=20, close_timeout=20)


def service(plane: DataPlane) -> dict[str, int]:
    return plane.state()["services"]["s"]


def wait_for_no_tunnel(plane: DataPlane) -> None:
    deadline = time.monotonic() + 20
    while service(plane)["tunnels"]:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_messages_of_every_kind_come_back_as_they_were_sent(server: Server) -> None:
    with plane(server) as gateway, dial(gateway) as client:
        for message in ("", "text \N{SNOWMAN}", b"binary", "x" * MEBIBYTE, bytes(MEBIBYTE)):
            client.send(message)
            assert client.recv(20) == message
        client.send(["in ", "three ", "fragments"])
        assert client.recv(20) == "in three fragments"
        assert client.ping().wait(20)
        state = service(gateway)
        assert (state["tunnels"], state["in_flight"]) == (1, 0)


def test_a_tunnel_over_tls_carries_as_much(server: Server, tmp_path: Path) -> None:
    host, port = server.socket.getsockname()
    with secure(tmp_path, lambda _, __: None) as gateway:
        gateway.plane.set_endpoints("s", [("s-1", f"{host}:{port}")])
        trusted = ssl.create_default_context(cafile=gateway.authority)
        with connect(
            f"wss://127.0.0.1:{gateway.port}/s/echo",
            ssl=trusted,
            server_hostname="localhost",
            max_size=None,
        ) as client:
            for message in ("text", bytes(MEBIBYTE)):
                client.send(message)
                assert client.recv(20) == message


def test_both_sides_hear_why_the_other_closed(server: Server) -> None:
    with plane(server) as gateway:
        with dial(gateway) as client:
            client.send("close")
            with pytest.raises(ConnectionClosed) as closed:
                client.recv(20)
            assert closed.value.rcvd is not None
            assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4001, "as asked")
        with dial(gateway) as client:
            client.close(1001, "leaving")
            assert client.close_code == 1001
        wait_for_no_tunnel(gateway)


def test_a_refusal_of_the_instance_reaches_the_client(server: Server) -> None:
    with plane(server) as gateway:
        with pytest.raises(InvalidStatus) as refused:
            dial(gateway, "/refused")
        assert refused.value.response.status_code == 403
        assert refused.value.response.body == b"not you"
        assert service(gateway)["tunnels"] == 0


def test_limits_come_before_a_tunnel(server: Server) -> None:
    with plane(server, tunnels=2) as gateway:
        with dial(gateway, "/limited"):
            with pytest.raises(InvalidStatus) as limited:
                dial(gateway, "/limited")
            assert limited.value.response.status_code == 429
            with dial(gateway):
                with pytest.raises(InvalidStatus) as full:
                    dial(gateway)
                assert full.value.response.status_code == 503
        wait_for_no_tunnel(gateway)
        with dial(gateway):
            pass


def test_what_a_route_does_not_offer_is_not_passed_on() -> None:
    def answer(asked: Asked, connection: socket.socket) -> None:
        assert "upgrade" not in asked.headers
        connection.sendall(OK + b"content-length: 0\r\n\r\n")

    with gateway(answer) as (client, _, _):
        offered = {"connection": "upgrade, http2-settings", "upgrade": "h2c"}
        assert client.get("/x", headers=offered).status_code == 200


@pytest.mark.parametrize("granted", [b"other", b""])
def test_an_instance_that_goes_over_to_something_else_is_not_believed(granted: bytes) -> None:
    def answer(_: Asked, connection: socket.socket) -> bool:
        line = b"upgrade: " + granted + b"\r\n" if granted else b""
        connection.sendall(b"HTTP/1.1 101 Switching Protocols\r\n" + line + b"\r\n")
        return False

    with gateway(answer) as (client, _, _):
        offered = {"connection": "upgrade", "upgrade": "websocket"}
        assert client.get("/x", headers=offered).status_code == 502


def test_a_tunnel_through_which_nothing_goes_ends(server: Server) -> None:
    with plane(server, tunnel_idle_seconds=0.3) as gateway, dial(gateway) as client:
        for _ in range(4):
            time.sleep(0.15)
            client.send("still here")
            assert client.recv(20) == "still here"
        with pytest.raises(ConnectionClosed):
            client.recv(20)
        wait_for_no_tunnel(gateway)


def test_a_client_that_reads_nothing_slows_the_instance(server: Server) -> None:
    FLOODED.clear()
    with plane(server) as gateway:
        host, _, port = gateway.listen.partition(":")
        with socket.create_connection((host, int(port)), timeout=20) as client:
            client.sendall(
                b"GET /flood HTTP/1.1\r\nhost: h\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
                b"sec-websocket-version: 13\r\nsec-websocket-key: MDEyMzQ1Njc4OTAxMjM0NQ==\r\n\r\n"
            )
            assert client.recv(12) == b"HTTP/1.1 101"
            seen = -1
            while seen != len(FLOODED):
                seen = len(FLOODED)
                time.sleep(0.3)
            assert seen < 40, "64 MiB were taken for a client that reads nothing"
            read = 0
            while read < 64 * MEBIBYTE:
                part = client.recv(MEBIBYTE)
                assert part
                read += len(part)
        wait_for_no_tunnel(gateway)


def test_a_drain_waits_for_a_tunnel_within_its_bound(server: Server) -> None:
    with plane(server) as gateway:
        with dial(gateway) as client:
            draining = threading.Thread(target=gateway.drain, args=(20.0,))
            draining.start()
            client.send("during the drain")
            assert client.recv(20) == "during the drain"
            assert draining.is_alive()
        draining.join(20)
        assert not draining.is_alive()


def test_the_end_of_the_gateway_ends_a_tunnel(server: Server) -> None:
    gateway = start(server)
    with dial(gateway) as client:
        started = time.monotonic()
        gateway.drain(0.2)
        assert 0.2 <= time.monotonic() - started < 5
        del gateway
        with pytest.raises(ConnectionClosed):
            client.recv(20)


def test_a_websocket_over_http2_reaches_an_instance_that_speaks_http1(server: Server) -> None:
    configuration = h2.config.H2Configuration(header_encoding="ascii")
    with plane(server) as gateway:
        host, _, port = gateway.listen.partition(":")
        with socket.create_connection((host, int(port)), timeout=20) as client:
            connection = h2.connection.H2Connection(configuration)
            connection.initiate_connection()
            client.sendall(connection.data_to_send())
            setting = h2.settings.SettingCodes.ENABLE_CONNECT_PROTOCOL
            while not connection.remote_settings.get(setting):
                connection.receive_data(client.recv(65_536))
            headers = [
                (":method", "CONNECT"),
                (":protocol", "websocket"),
                (":scheme", "http"),
                (":path", "/echo"),
                (":authority", gateway.listen),
                ("sec-websocket-version", "13"),
            ]
            connection.send_headers(1, headers)
            connection.send_data(1, Frame(Opcode.TEXT, b"hello").serialize(mask=True))
            client.sendall(connection.data_to_send())
            status, received, ended = "", b"", False
            echo = Frame(Opcode.TEXT, b"hello").serialize(mask=False)
            while not ended:
                for event in connection.receive_data(client.recv(65_536)):
                    if isinstance(event, ResponseReceived):
                        status = str(dict[Any, Any](event.headers)[":status"])
                    elif isinstance(event, DataReceived):
                        received += event.data
                        if received == echo:
                            close = Frame(Opcode.CLOSE, b"\x03\xe8").serialize(mask=True)
                            connection.send_data(1, close)
                    ended |= isinstance(event, StreamEnded)
                client.sendall(connection.data_to_send())
            assert status == "200"
            assert received == echo + Frame(Opcode.CLOSE, b"\x03\xe8").serialize(mask=False)
        wait_for_no_tunnel(gateway)
        assert httpx2.get(f"http://{gateway.listen}/plain").status_code == 426
