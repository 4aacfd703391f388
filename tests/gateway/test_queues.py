"""What stands in a queue before an answer: little, however much else its connection carries."""

import contextlib
import os
import socket
import time
from pathlib import Path

import h2.config
import h2.connection
import h2.events
import pytest
from reading import unread, wait_until_stalled
from upstream import Asked, gateway, sized

from counterfoil.gateway.config import Clients
from counterfoil.gateway.data_plane import GatewayError

BULK = 48 * 1024 * 1024
FLOWING = 24 * 1024 * 1024
"""After so much the kernel would give the connection all of the buffer that it may have."""


def connect(address: str) -> socket.socket:
    host, _, port = address.partition(":")
    return socket.create_connection((host, int(port)), timeout=20)


def algorithm_at_the_other_end(client: socket.socket) -> str:
    """That of the gateway's socket, which is in this process as well."""
    for each in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(int(each.name))) as other:
            if other.getpeername() == client.getsockname():
                chosen = other.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
                return chosen.rstrip(b"\0").decode()
    raise AssertionError("the gateway has no socket of this connection")


def test_a_small_answer_does_not_wait_behind_megabytes_of_a_large_one() -> None:
    bodies = {"/bulk": bytes(BULK), "/small": b"small"}

    def answer(asked: Asked, out: socket.socket) -> None:
        with contextlib.suppress(ConnectionError):  # nobody reads all of the large one
            out.sendall(sized(bodies[asked.line.split()[1]]))

    with (
        gateway(answer) as (
            _,
            _,
            plane,
        ),
        connect(plane.listen) as client,
    ):
        connection = h2.connection.H2Connection(h2.config.H2Configuration())
        connection.initiate_connection()
        connection.increment_flow_control_window(2**30)
        bulk_bytes = 0

        def ask(path: str) -> int:
            stream = connection.get_next_available_stream_id()
            fields = {":method": "GET", ":scheme": "http", ":authority": "a", ":path": path}
            connection.send_headers(stream, list(fields.items()), end_stream=True)
            connection.increment_flow_control_window(2**30, stream)
            client.sendall(connection.data_to_send())
            return stream

        def read() -> set[int | None]:
            """The streams that something has come of but the first."""
            nonlocal bulk_bytes
            events = connection.receive_data(client.recv(65_536))
            bulk_bytes += sum(
                len(event.data)
                for event in events
                if isinstance(event, h2.events.DataReceived) and event.stream_id == bulk
            )
            client.sendall(connection.data_to_send())
            return {getattr(event, "stream_id", None) for event in events} - {bulk, None, 0}

        bulk = ask("/bulk")
        while bulk_bytes < FLOWING:
            read()
        wait_until_stalled([client])
        here = unread(client)
        before = bulk_bytes
        small = ask("/small")
        while plane.state()["routes"][0]["answers"][1] < 2:
            time.sleep(0.01)  # its answer is there, and stands in the queue
        while small not in read():
            pass
        assert bulk_bytes - before - here < 512 * 1024


def test_an_algorithm_that_the_kernel_lacks_is_refused_with_those_that_it_has() -> None:
    with (
        pytest.raises(GatewayError, match=r'congestion "turtle".*this kernel has: .*reno'),
        gateway(lambda _, __: None, settings={"clients": Clients(congestion="turtle")}),
    ):
        pass


def test_connections_have_the_algorithm_that_was_asked_for() -> None:
    settings = {"clients": Clients(congestion="reno")}
    with (
        gateway(lambda _, out: out.sendall(sized(b"ok")), settings=settings) as (_, _, plane),
        connect(plane.listen) as client,
    ):
        client.sendall(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        assert client.recv(65_536).startswith(b"HTTP/1.1 200")
        used = algorithm_at_the_other_end(client)
    assert used == "reno"
