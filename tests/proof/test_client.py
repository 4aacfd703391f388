"""The client of the proof: it asks as it is told, and knows a promise when it sees one."""

import asyncio
import datetime
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import msgspec
import pytest

from counterfoil import Request
from counterfoil.certificates import certify
from counterfoil.proof.client import Client, NothingPromised

ANSWERS = {"/made": (201, b'{"id": "7"}'), "/there": (200, b'{"id": 7}'), "/nothing": (204, b"")}


class Body(msgspec.Struct):
    amount: int


class Answering(ThreadingHTTPServer):
    """Remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answerer)
        self.asked: list[tuple[str, str, bytes]] = []


class Answerer(BaseHTTPRequestHandler):
    server: Answering

    def answer(self) -> None:
        """Answer by path."""
        content = self.rfile.read(int(self.headers.get("content-length", 0)))
        self.server.asked.append((self.command, self.path, content))
        status, answer = ANSWERS[self.path]
        self.send_response(status)
        if status != 204:
            self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_POST = do_PUT = do_PATCH = do_DELETE = answer

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Answering]:
    now = datetime.datetime.now(datetime.UTC)
    certify(tmp_path, ["server"], now, authority="of a test")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem", tmp_path / "server.key")
    server = Answering()
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def send(server: Answering, folder: Path, *requests: Request) -> Client:
    address = f"127.0.0.1:{server.server_port}"
    client = Client(address, folder / "ca.pem", {"home": "token"}, seed=2)
    asyncio.run(client.send(requests, lambda _: None))
    return client


def test_requests_of_every_method_are_acknowledged_by_any_status_that_is_good(
    server: Answering, tmp_path: Path
) -> None:
    body = Body(5)
    made = Request("/made", body, "home", "gold", "1", 5, "PUT")
    there = Request("/there", None, "home", "gold", "2", 5, "DELETE")
    client = send(server, tmp_path, made, there)
    assert set(server.asked) == {("PUT", "/made", b'{"amount":5}'), ("DELETE", "/there", b"")}
    assert [each.id for each in client.record.acknowledged.values()] == [7, 7]


def test_an_answer_without_an_id_is_told_to_whoever_wrote_the_workload(
    server: Answering, tmp_path: Path
) -> None:
    with pytest.raises(NothingPromised, match="PATCH /nothing"):
        send(server, tmp_path, Request("/nothing", Body(5), "home", "gold", "1", 5, "PATCH"))
