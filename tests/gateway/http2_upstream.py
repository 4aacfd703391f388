"""A server of HTTP/2, over TLS or without, that does with each request as a test wants, by h2."""

import socket
import ssl
import threading
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
from h2.settings import SettingCodes


@dataclass
class Asked:
    """A request as the server got it."""

    stream: int
    headers: dict[str, str]
    body: bytes = b""
    trailers: dict[str, str] = field(default_factory=dict[str, str])


class Connection:
    """One connection of the gateway."""

    def __init__(self, server: "Server", socket_: socket.socket, number: int) -> None:
        self.server, self.socket, self.number = server, socket_, number
        config = h2.config.H2Configuration(client_side=False, header_encoding="utf-8")
        self.h2 = h2.connection.H2Connection(config)
        self.asked: dict[int, Asked] = {}
        self.lock = threading.RLock()

    def serve(self) -> None:
        if self.server.tls:
            with suppress(OSError):
                self.socket = self.server.tls.wrap_socket(self.socket, server_side=True)
        with self.socket, suppress(OSError, h2.exceptions.ProtocolError):
            if self.server.settings:
                self.h2.local_settings = h2.settings.Settings(False, self.server.settings)
            self.h2.initiate_connection()
            self.flush()
            while data := self.socket.recv(65_536):
                with self.lock:
                    for event in self.h2.receive_data(data):
                        self.happened(event)
                    self.flush()

    def happened(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.RequestReceived():
                asked = Asked(event.stream_id, _text(event.headers))
                self.asked[event.stream_id] = asked
                self.server.begun.append(asked)
                if self.server.at_head:
                    self.server.at_head(asked, self)
            case h2.events.DataReceived():
                self.asked[event.stream_id].body += event.data
                if self.server.takes:
                    length = event.flow_controlled_length
                    self.h2.acknowledge_received_data(length, event.stream_id)
            case h2.events.TrailersReceived():
                self.asked[event.stream_id].trailers = _text(event.headers)
            case h2.events.StreamEnded():
                self.server.asked.append(self.asked[event.stream_id])
                self.server.answer(self.asked[event.stream_id], self)
            case h2.events.StreamReset():
                self.server.reset.append(event.stream_id)
            case _:
                pass

    def respond(
        self, asked: Asked, body: bytes = b"", trailers: dict[str, str] | None = None, **more: str
    ) -> None:
        """Answer with 200, unless `more` (headers, by `_` for `-`) has another status."""
        headers = {":status": "200"} | {name.replace("_", "-"): v for name, v in more.items()}
        if "status" in headers:
            headers[":status"] = headers.pop("status")
        with self.lock:
            self.h2.send_headers(asked.stream, headers.items())
            self.h2.send_data(asked.stream, body, end_stream=trailers is None)
            if trailers is not None:
                self.h2.send_headers(asked.stream, trailers.items(), end_stream=True)
            self.flush()

    def flush(self) -> None:
        self.socket.sendall(self.h2.data_to_send())

    def cut(self) -> None:
        self.flush()
        self.socket.shutdown(socket.SHUT_RDWR)


@dataclass
class Server:
    answer: Callable[[Asked, Connection], None]
    """What becomes of a request that is there whole."""
    at_head: Callable[[Asked, Connection], None] | None = None
    settings: dict[SettingCodes, int] = field(default_factory=dict[SettingCodes, int])
    tls: ssl.SSLContext | None = None
    takes: bool = True
    """Whether room is made for more of a body."""
    begun: list[Asked] = field(default_factory=list[Asked])
    asked: list[Asked] = field(default_factory=list[Asked])
    reset: list[int] = field(default_factory=list[int])
    connections: list[Connection] = field(default_factory=list[Connection])
    listener: socket.socket = field(default_factory=lambda: socket.create_server(("127.0.0.1", 0)))

    @property
    def address(self) -> str:
        host, port = self.listener.getsockname()
        return f"{host}:{port}"

    def accept(self) -> None:
        while True:
            try:
                accepted, _ = self.listener.accept()
            except OSError:
                return
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = Connection(self, accepted, len(self.connections))
            self.connections.append(connection)
            threading.Thread(target=connection.serve, daemon=True).start()


def _text(headers: Iterable[tuple[Any, Any]]) -> dict[str, str]:
    """Headers that h2 has decoded, though it says it gives bytes."""
    return dict(headers)


@contextmanager
def serving(server: Server) -> Generator[Server, None, None]:
    threading.Thread(target=server.accept, daemon=True).start()
    yield server
    server.listener.shutdown(socket.SHUT_RDWR)
    server.listener.close()
