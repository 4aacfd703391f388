"""A server that answers, byte by byte, as a test wants it to, and the real data plane before it."""

import http.client
import io
import socket
import ssl
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx2

from counterfoil.gateway.config import GatewayConfig, Route
from counterfoil.gateway.data_plane import DataPlane
from counterfoil.gateway.services import Upstream

OK = b"HTTP/1.1 200 OK\r\n"
LARGE = bytes(range(256)) * 8_192  # 2 MiB: more than is kept whole


@dataclass
class Asked:
    """A request as the server got it."""

    line: str
    headers: dict[str, str]
    body: bytes
    trailers: dict[str, str] = field(default_factory=dict[str, str])


@dataclass
class Server:
    """Answers with what `answer` sends; closes the connection where that returns False."""

    answer: Callable[[Asked, socket.socket], bool | None]
    asked: list[Asked] = field(default_factory=list[Asked])
    connections: list[socket.socket] = field(default_factory=list[socket.socket])
    listener: socket.socket = field(default_factory=lambda: socket.create_server(("127.0.0.1", 0)))
    tls: ssl.SSLContext | None = None
    """Spoken on the connections that begin from now on."""

    @property
    def address(self) -> str:
        host, port = self.listener.getsockname()
        return f"{host}:{port}"

    def accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.connections.append(connection)
            threading.Thread(target=self.begin, args=(connection,), daemon=True).start()

    def begin(self, connection: socket.socket) -> None:
        if self.tls is None:
            self.serve(connection)
            return
        with suppress(OSError), self.tls.wrap_socket(connection, server_side=True) as secured:
            self.serve(secured)

    def serve(self, connection: socket.socket) -> None:
        # Whoever asks may go before the answer.
        with connection, connection.makefile("rb") as lines, suppress(ConnectionError):
            while asked := read(lines):
                self.asked.append(asked)
                if self.answer(asked, connection) is False:
                    with suppress(OSError):  # the gateway may have closed it first
                        connection.shutdown(socket.SHUT_RDWR)
                    return

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


def read(lines: io.BufferedReader) -> Asked | None:
    """The next request on a connection, or nothing at its end."""
    try:
        first = lines.readline().decode()
        if not first:
            return None
        headers = fields(lines)
        if headers.get("transfer-encoding") != "chunked":
            body = lines.read(int(headers.get("content-length", "0")))
            return Asked(first.strip(), headers, body)
        body = b""
        while size := int(lines.readline(), 16):
            body += lines.read(size)
            assert lines.readline() == b"\r\n"
        return Asked(first.strip(), headers, body, fields(lines))
    except (OSError, ValueError):
        return None


def fields(lines: io.BufferedReader) -> dict[str, str]:
    """Headers or trailers, with their names in small letters."""
    return {name.lower(): value for name, value in http.client.parse_headers(lines).items()}


@contextmanager
def serving(
    answer: Callable[[Asked, socket.socket], bool | None],
) -> Generator[Server, None, None]:
    """A server alone."""
    server = Server(answer)
    threading.Thread(target=server.accept, daemon=True).start()
    yield server
    server.close()


@contextmanager
def gateway(
    answer: Callable[[Asked, socket.socket], bool | None],
    *,
    request_body_limit: int = 4_000_000,
    route: Mapping[str, object] | None = None,
    settings: Mapping[str, object] | None = None,
    access_log: Path | None = None,
    **protection: object,
) -> Generator[tuple[httpx2.Client, Server, DataPlane], None, None]:
    """A client of a gateway of a server; `route` and `settings` add to its configuration."""
    ours = {"methods": ("GET", "HEAD", "POST"), "identity": False} | dict(route or {})
    server = Server(answer)
    threading.Thread(target=server.accept, daemon=True).start()
    given = {"listen": "127.0.0.1:0", **(settings or {})}
    plane = DataPlane(
        GatewayConfig(
            admin="127.0.0.1:0",
            tls="off",
            request_body_limit=request_body_limit,
            routes=(Route(path="/*", service="s", **ours),),  # type: ignore[arg-type]
            services={"s": Upstream(**protection)},  # type: ignore[arg-type]
            **given,  # type: ignore[arg-type]
        ),
        access_log=access_log,
        admin_credential="c",
    )
    plane.set_endpoints("s", [("s-1", server.address)])
    with httpx2.Client(base_url=f"http://{plane.listen}", timeout=20) as client:
        yield client, server, plane
    plane.drain(5.0)
    server.close()


def sized(body: bytes) -> bytes:
    return OK + b"content-length: %d\r\n\r\n%s" % (len(body), body)


def chunked(*chunks: bytes) -> bytes:
    framed = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    return OK + b"transfer-encoding: chunked\r\n\r\n" + framed + b"0\r\n\r\n"


def until_close(body: bytes) -> bytes:
    return OK + b"\r\n" + body
