"""What a client that pauses, or reads slowly, costs the gateway: little, and never a request."""

import contextlib
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from reading import wait_until_stalled
from upstream import OK, Asked, gateway, sized

from counterfoil.gateway.compression import Compression

READERS = 20
ANSWERS = 10
"""That each of them asks for at a time, where it can."""
BODY = 64 * 1024 * 1024
PER_READER = {
    "identity": 64 * 1024,
    "gzip": 1024 * 1024,
    "zstd": 1024 * 1024,
    "br": 2048 * 1024,
}
"""Bytes of resident memory; the kernel's own buffers are not counted."""


def resident() -> int:
    """Bytes of this process, in which the data plane runs, that are in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def connect(address: str) -> socket.socket:
    host, _, port = address.partition(":")
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
    client.settimeout(20)
    client.connect((host, int(port)))
    return client


SERVER = """
import random, socket, sys, threading
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
part = random.Random(0).randbytes(1 << 20)
def serve(connection):
    with connection:
        connection.recv(65536)
        head = b"HTTP/1.1 200 OK\\r\\ncontent-type: text/plain\\r\\n"
        connection.sendall(head + b"content-length: %d\\r\\n\\r\\n" % int(sys.argv[1]))
        try:
            for _ in range(int(sys.argv[1]) // len(part)):
                connection.sendall(part)
        except OSError:
            pass
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"""


@pytest.mark.parametrize("coding", PER_READER)
def test_slow_readers_of_large_answers_hold_little_memory(coding: str) -> None:
    command = [sys.executable, "-c", SERVER, str(BODY)]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE) as server,
        gateway(lambda _, __: None, route={"compression": Compression()}) as (_, _, plane),
        contextlib.ExitStack() as stack,
    ):
        stack.callback(server.terminate)
        assert server.stdout is not None
        plane.set_endpoints("s", [("s-1", f"127.0.0.1:{int(server.stdout.readline())}")])

        def readers(number: int) -> list[socket.socket]:
            opened = [stack.enter_context(connect(plane.listen)) for _ in range(number)]
            for each in opened:
                head = f"GET /x HTTP/1.1\r\nhost: h\r\naccept-encoding: {coding}\r\n\r\n"
                each.sendall(head.encode())
            wait_until_stalled(opened)
            return opened

        slow = readers(2)  # what is there once is no matter of how many
        grown = most = READERS * PER_READER[coding]
        for _ in range(3):  # memory comes in pages of up to 2 MiB, not with each batch
            before = resident()
            slow = readers(READERS)
            if (grown := resident() - before) < most:
                break
        assert grown < most
        received, whole = 0, BODY if coding == "identity" else BODY // 64
        while received < whole:
            received += len(slow[0].recv(1 << 20))


def frame(kind: int, flags: int, stream: int, content: bytes = b"") -> bytes:
    """A frame of HTTP/2 (RFC 9113, section 4.1)."""
    return len(content).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + content


def test_slow_readers_of_many_answers_on_a_connection_hold_little_memory() -> None:
    command = [sys.executable, "-c", SERVER, str(BODY)]
    room = (2**30).to_bytes(4)  # nothing is held back by windows
    ask = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b"\0\4" + room)
    ask += frame(8, 0, 0, room)
    for stream in range(1, 2 * ANSWERS, 2):
        ask += frame(1, 5, stream, b"\x82\x86\x04\x02/x\x01\x01h")  # GET http://h/x
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE) as server,
        gateway(lambda _, __: None) as (_, _, plane),
        contextlib.ExitStack() as stack,
    ):
        stack.callback(server.terminate)
        assert server.stdout is not None
        plane.set_endpoints("s", [("s-1", f"127.0.0.1:{int(server.stdout.readline())}")])

        def readers(number: int) -> None:
            opened = [stack.enter_context(connect(plane.listen)) for _ in range(number)]
            for each in opened:
                each.sendall(ask)
            wait_until_stalled(opened)

        readers(1)
        before = resident()
        readers(READERS)
        assert resident() - before < READERS * ANSWERS * PER_READER["identity"]


def test_a_client_that_pauses_is_answered_wherever_it_paused() -> None:
    paused = threading.Event()

    def answer(asked: Asked, connection: socket.socket) -> None:
        if "/late" in asked.line:
            paused.wait(30)
        connection.sendall(sized(asked.line.split()[1].encode() + asked.body))

    request = b"%s HTTP/1.1\r\nhost: h\r\n%s\r\n"
    with (
        gateway(answer, attempt_timeout_seconds=30.0) as (_, _, plane),
        contextlib.ExitStack() as stack,
    ):
        clients = [stack.enter_context(connect(plane.listen)) for _ in range(5)]
        between, within_head, within_body, late, pipelined = clients
        for client in clients:
            client.sendall(request % (b"GET /first", b""))
            assert whole(client) == b"/first"
        within_head.sendall(b"GET /second HTTP/1.1\r\nho")
        within_body.sendall(request % (b"POST /second", b"content-length: 4\r\n") + b"bo")
        late.sendall(request % (b"GET /late", b""))
        # The second is in the way of nobody: it is a request of its own, whenever it is read.
        pipelined.sendall(request % (b"POST /one", b"content-length: 3\r\n") + b"GET")
        assert whole(pipelined) == b"/oneGET"
        time.sleep(11)  # longer than it takes to give back a connection's buffers
        paused.set()
        between.sendall(request % (b"GET /second", b""))
        within_head.sendall(b"st: h\r\n\r\n")
        within_body.sendall(b"dy")
        pipelined.sendall(request % (b"GET /two", b"") * 2)
        assert whole(between) == b"/second"
        assert whole(within_head) == b"/second"
        assert whole(within_body) == b"/secondbody"
        assert whole(late) == b"/late"
        assert [whole(pipelined), whole(pipelined)] == [b"/two", b"/two"]


def whole(client: socket.socket) -> bytes:
    """The body of the next answer, and not a byte more."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        part = client.recv(1)
        assert part, f"the connection ended after {head!r}"
        head += part
    assert head.startswith(b"HTTP/1.1 200 ")
    fields = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
    body = b""
    while len(body) < int(fields[b"content-length"]):
        body += client.recv(int(fields[b"content-length"]) - len(body))
    return body


def test_the_end_of_a_client_of_events_ends_the_instances_connection() -> None:
    ended = threading.Event()
    asked_for: list[str] = []

    def answer(asked: Asked, connection: socket.socket) -> bool:
        asked_for.append(asked.headers["last-event-id"])
        connection.sendall(OK + b"content-type: text/event-stream\r\n\r\nid: 8\ndata: 1\n\n")
        assert connection.recv(1) == b""
        ended.set()
        return False

    with gateway(answer) as (_, _, plane):
        with connect(plane.listen) as client:
            client.sendall(b"GET /x HTTP/1.1\r\nhost: h\r\nlast-event-id: 7\r\n\r\n")
            received = b""
            while b"data: 1\n\n" not in received:
                received += client.recv(4096)
        assert ended.wait(10), "the instance should have heard that its client is gone"
        assert asked_for == ["7"]
        deadline = time.monotonic() + 10
        while plane.state()["services"]["s"]["in_flight"]:
            assert time.monotonic() < deadline
            time.sleep(0.01)
