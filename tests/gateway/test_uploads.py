"""Bodies of requests on their way through the real data plane, to instances of every manner."""

import contextlib
import queue
import socket
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import pytest
from upstream import LARGE, OK, Asked, chunked, gateway, sized

from counterfoil.gateway.data_plane import DataPlane

SMALL_BUFFER = 64 * 1024


@contextmanager
def instance(
    behave: Callable[[socket.socket], None], **settings: Any
) -> Generator[tuple[socket.socket, DataPlane, list[socket.socket]], None, None]:
    """A client's connection to a gateway of an instance that behaves so on each of its own."""
    connections: list[socket.socket] = []
    failures: queue.Queue[BaseException] = queue.Queue()
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)

    def serve(connection: socket.socket) -> None:
        try:
            with connection:
                behave(connection)
        except Exception as error:
            failures.put(error)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                connection.settimeout(20)
                connections.append(connection)
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    host, port = listener.getsockname()
    with gateway(lambda _, __: None, **settings) as (_, _, plane):
        plane.set_endpoints("s", [("s-1", f"{host}:{port}")])
        with connect(plane) as client:
            yield client, plane, connections
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    if not failures.empty():
        raise failures.get()


def connect(plane: DataPlane) -> socket.socket:
    host, _, port = plane.listen.partition(":")
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BUFFER)
    client.settimeout(20)
    client.connect((host, int(port)))
    return client


def until(connection: socket.socket, end: bytes) -> bytes:
    """What comes, up to and with `end`."""
    read = b""
    while not read.endswith(end):
        part = connection.recv(1 if len(end) > 1 else 65_536)
        assert part, f"the connection ended after {read!r}"
        read += part
    return read


def exactly(connection: socket.socket, length: int) -> bytes:
    read = b""
    while len(read) < length:
        part = connection.recv(length - len(read))
        assert part, f"the connection ended after {len(read)} bytes"
        read += part
    return read


def rest(connection: socket.socket) -> bytes:
    """What comes until the end of the connection, however it ends."""
    read = b""
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(65_536):
            read += part
    return read


HEAD = b"POST /x HTTP/1.1\r\nhost: h\r\n"
LENGTH = HEAD + b"content-length: %d\r\n\r\n" % len(LARGE)
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"
NO_CONTENT = b"HTTP/1.1 204 No Content\r\n\r\n"


def chunk(part: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(part), part)


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_large_body_reaches_the_instance_before_its_end_is_there(framing: str) -> None:
    half = len(LARGE) // 2
    seen = threading.Event()
    bodies: list[bytes] = []

    def behave(connection: socket.socket) -> None:
        head = until(connection, b"\r\n\r\n")
        if framing == "length":
            assert b"\r\ncontent-length: %d\r\n" % len(LARGE) in head
            first = exactly(connection, half)
            seen.set()
            bodies.append(first + exactly(connection, half))
        else:
            assert b"\r\ntransfer-encoding: chunked\r\n" in head
            assert b"content-length" not in head
            body = b""
            while size := int(until(connection, b"\r\n"), 16):
                body += exactly(connection, size)
                assert exactly(connection, 2) == b"\r\n"
                if len(body) == half:
                    seen.set()
            assert exactly(connection, 2) == b"\r\n"
            bodies.append(body)
        connection.sendall(NO_CONTENT)
        assert connection.recv(1) == b""

    with instance(behave) as (client, _, connections):
        wrapped = chunk if framing == "chunked" else bytes
        client.sendall((CHUNKED if framing == "chunked" else LENGTH) + wrapped(LARGE[:half]))
        assert seen.wait(20), "the first half should have reached the instance by now"
        client.sendall(wrapped(LARGE[half:]) + (b"0\r\n\r\n" if framing == "chunked" else b""))
        assert until(client, b"\r\n\r\n").startswith(b"HTTP/1.1 204 ")
        assert bodies == [LARGE]
        assert len(connections) == 1


def test_an_instance_that_takes_nothing_slows_its_client_and_is_given_up_in_its_time() -> None:
    given_up = threading.Event()

    def behave(connection: socket.socket) -> None:
        until(connection, b"\r\n\r\n")
        given_up.wait(20)

    size = 100_000_000  # far more than the buffers of four sockets
    with instance(behave, attempt_timeout_seconds=1.0, request_body_limit=0) as (
        client,
        _,
        connections,
    ):
        client.sendall(HEAD + b"idempotency-key: k\r\ncontent-length: %d\r\n\r\n" % size)
        client.settimeout(0.3)
        sent, part = 0, bytes(1_000_000)
        with contextlib.suppress(TimeoutError):
            while sent < size:
                sent += client.send(part)
        assert sent < size, "all of it was taken for an instance that took nothing"
        client.settimeout(20)
        assert until(client, b"\r\n\r\n").startswith(b"HTTP/1.1 504 ")
        assert len(connections) == 1, "a body of which some is gone must not be sent again"
        given_up.set()


def test_a_client_that_pauses_is_not_the_instances_fault() -> None:
    def behave(connection: socket.socket) -> None:
        until(connection, b"\r\n\r\n")
        assert exactly(connection, len(LARGE)) == LARGE
        connection.sendall(NO_CONTENT)
        connection.recv(1)

    with instance(behave, attempt_timeout_seconds=0.2) as (client, _, _connections):
        client.sendall(LENGTH + LARGE[:100_000])
        time.sleep(0.5)  # longer than an attempt may take
        client.sendall(LARGE[100_000:])
        assert until(client, b"\r\n\r\n").startswith(b"HTTP/1.1 204 ")


def test_an_answer_to_a_slow_upload_may_come_in_parts() -> None:
    def behave(connection: socket.socket) -> None:
        until(connection, b"\r\n\r\n")
        assert exactly(connection, len(LARGE)) == LARGE
        connection.sendall(OK + b"content-length: 4\r\n\r\n")
        time.sleep(0.05)
        connection.sendall(b"done")
        connection.recv(1)

    with instance(behave, attempt_timeout_seconds=0.4, breaker_failures=1) as (client, plane, _):
        client.sendall(LENGTH + LARGE[:100_000])
        time.sleep(0.5)  # longer than an attempt may take
        client.sendall(LARGE[100_000:])
        assert until(client, b"\r\n\r\n").startswith(b"HTTP/1.1 200 ")
        assert exactly(client, 4) == b"done"
        assert plane.state()["services"]["s"]["endpoints"][0]["breaker"] == "closed"


@pytest.mark.parametrize("head", [LENGTH, CHUNKED])
def test_a_client_that_dies_while_it_sends_leaves_no_whole_request(head: bytes) -> None:
    got: queue.Queue[bytes] = queue.Queue()

    def behave(connection: socket.socket) -> None:
        assert until(connection, b"\r\n\r\n").startswith(b"POST /x ")
        got.put(rest(connection))

    with instance(behave, breaker_failures=1) as (client, plane, connections):
        part = LARGE[:200_000]
        client.sendall(head + (chunk(part) if head == CHUNKED else part))
        while not connections:
            time.sleep(0.01)
        client.close()
        body = got.get(timeout=20)
        assert len(body) < len(LARGE)
        assert not body.endswith(b"0\r\n\r\n")
        with connect(plane) as other:
            other.sendall(LENGTH + LARGE[:100_000])
            while len(connections) < 2:
                time.sleep(0.01)
        assert got.get(timeout=20) != b"", "the second request has a connection of its own"
        endpoint = plane.state()["services"]["s"]["endpoints"][0]
        assert endpoint["breaker"] == "closed", "what a client does is not the instance's fault"


def test_a_body_of_which_some_is_gone_is_not_sent_again() -> None:
    def behave(connection: socket.socket) -> None:
        until(connection, b"\r\n\r\n")
        exactly(connection, 100_000)

    with instance(behave) as (client, _, connections):
        client.sendall(LENGTH.replace(b"host", b"idempotency-key: k\r\nhost") + LARGE[:200_000])
        assert until(client, b"\r\n\r\n").startswith(b"HTTP/1.1 502 ")
        assert len(connections) == 1


def test_a_small_body_of_unknown_length_is_sent_again() -> None:
    def answer(_: Asked, connection: socket.socket) -> bool | None:
        if len(server.asked) == 1:
            return False
        connection.sendall(sized(b"good"))
        return None

    with gateway(answer) as (client, server, _):
        answered = client.post("/x", headers={"idempotency-key": "k"}, content=iter([b"a", b"b"]))
        assert answered.content == b"good"
        assert [asked.body for asked in server.asked] == [b"ab", b"ab"]


def test_a_body_that_grows_beyond_the_limit_is_refused_and_its_instance_hears_no_end() -> None:
    got: queue.Queue[bytes] = queue.Queue()

    def behave(connection: socket.socket) -> None:
        got.put(rest(connection))

    with instance(behave) as (client, _, _connections):
        client.sendall(CHUNKED)
        with contextlib.suppress(ConnectionError):
            for _ in range(5):
                client.sendall(chunk(LARGE[:1_000_000]))
        assert until(client, b"\r\n\r\n").startswith(b"HTTP/1.1 413 ")
        assert not got.get(timeout=20).endswith(b"0\r\n\r\n")


def test_both_sides_may_talk_at_once_and_the_connection_serves_again() -> None:
    def behave(connection: socket.socket) -> None:
        for _ in range(2):
            until(connection, b"\r\n\r\n")
            connection.sendall(OK + b"transfer-encoding: chunked\r\n\r\n")
            while size := int(until(connection, b"\r\n"), 16):
                connection.sendall(chunk(exactly(connection, size)))
                assert exactly(connection, 2) == b"\r\n"
            assert exactly(connection, 2) == b"\r\n"
            connection.sendall(b"0\r\n\r\n")
        connection.recv(1)

    with instance(behave) as (client, _, connections):
        for _ in range(2):
            client.sendall(CHUNKED + chunk(b"first"))
            assert until(client, b"\r\n\r\n").startswith(b"HTTP/1.1 200 ")
            assert exactly(client, 10) == chunk(b"first")
            for number in range(3):
                client.sendall(chunk(b"part %d" % number))
                assert exactly(client, 11) == chunk(b"part %d" % number)
            client.sendall(b"0\r\n\r\n")
            assert exactly(client, 5) == b"0\r\n\r\n"
        assert len(connections) == 1


def test_an_answer_that_ends_before_the_request_does_ends_the_instances_connection() -> None:
    ended = threading.Event()

    def behave(connection: socket.socket) -> None:
        until(connection, b"\r\n\r\n")
        connection.sendall(sized(b"done"))
        rest(connection)
        ended.set()

    with instance(behave) as (client, _, connections):
        client.sendall(LENGTH + LARGE[:100_000])
        until(client, b"\r\n\r\n")
        assert exactly(client, 4) == b"done"
        assert ended.wait(20)
        client.sendall(LARGE[100_000:] + b"GET /next HTTP/1.1\r\nhost: h\r\n\r\n")
        until(client, b"\r\n\r\n")
        assert exactly(client, 4) == b"done", "what was discarded is not taken for a request"
        assert len(connections) == 2


@pytest.mark.parametrize(
    ("said", "asked"),
    [
        (b"HTTP/1.1 100 Continue\r\n\r\n", True),
        (b"", True),
        (b"HTTP/1.1 401 No\r\ncontent-length: 0\r\n\r\n", False),
    ],
)
def test_a_client_that_offers_a_body_is_asked_for_it_once_the_instance_wants_it(
    said: bytes, asked: bool
) -> None:
    def behave(connection: socket.socket) -> None:
        assert b"\r\nexpect: 100-continue\r\n" in until(connection, b"\r\n\r\n")
        connection.sendall(said)
        if asked:
            assert exactly(connection, len(LARGE)) == LARGE
            connection.sendall(NO_CONTENT)
        connection.recv(1)

    with instance(behave) as (client, _, _connections):
        client.sendall(LENGTH.replace(b"host", b"expect: 100-continue\r\nhost"))
        first = until(client, b"\r\n\r\n")
        if not asked:
            assert first.startswith(b"HTTP/1.1 401 ")
            return
        assert first == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(LARGE)
        assert until(client, b"\r\n\r\n").startswith(b"HTTP/1.1 204 ")


def test_trailers_go_on_in_both_directions() -> None:
    def answer(asked: Asked, connection: socket.socket) -> None:
        assert asked.headers.get("te") == ("trailers" if wanted else None)
        answered = chunked(b"abc").replace(b"\r\n\r\n", b"\r\ntrailer: x-sum\r\n\r\n", 1)
        connection.sendall(answered[:-2] + b"x-sum: 1\r\n\r\n")

    with gateway(answer) as (_, server, plane), connect(plane) as client:
        for wanted in (True, False):
            te = b"te: trailers\r\nconnection: te\r\n" if wanted else b""
            head = CHUNKED.replace(b"host", te + b"host")
            client.sendall(head + chunk(b"a") + b"0\r\nx-check: 2\r\nhost: forged\r\n\r\n")
            assert b"trailer: x-sum\r\n" in until(client, b"\r\n\r\n")
            end = b"x-sum: 1\r\n\r\n" if wanted else b"\r\n"
            assert until(client, b"0\r\n" + end) == chunk(b"abc") + b"0\r\n" + end
            assert (server.asked[-1].body, server.asked[-1].trailers) == (b"a", {"x-check": "2"})
