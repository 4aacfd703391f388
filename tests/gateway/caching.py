"""Services and clients for the suites of the cache."""

import socket
from collections.abc import Callable

from upstream import Asked

from counterfoil.gateway.config import Cache

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
