"""The real data plane in front of a server that answers, byte by byte, as a test wants it to."""

import socket
import threading
import time
from collections.abc import Callable

import httpx2
import pytest
from upstream import LARGE, OK, Asked, chunked, gateway, sized, until_close


def test_one_connection_serves_answers_of_every_framing() -> None:
    answers = {
        "/sized": sized(b"abc"),
        "/empty": sized(b""),
        "/chunked": chunked(b"a", b"bc"),
        "/none": b"HTTP/1.1 204 No Content\r\n\r\n",
        "/same": b"HTTP/1.1 304 Not Modified\r\ncontent-length: 7\r\n\r\n",
        "/hints": b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" + sized(b"abc"),
        "/large": sized(LARGE),
        "/large-chunked": chunked(LARGE, LARGE),
    }

    def answer(asked: Asked, connection: socket.socket) -> None:
        connection.sendall(answers[asked.line.split()[1]])

    with gateway(answer) as (client, server, _):
        for _ in range(3):
            assert client.get("/sized").content == b"abc"
            assert client.get("/empty").content == b""
            assert client.get("/chunked").content == b"abc"
            assert client.get("/none").status_code == 204
            assert client.get("/same").status_code == 304
            assert client.get("/hints").content == b"abc"
            assert client.get("/large").content == LARGE
            assert client.get("/large-chunked").content == LARGE * 2
        assert len(server.connections) == 1


def test_the_length_of_what_a_head_request_would_get_is_passed_on() -> None:
    def answer(asked: Asked, connection: socket.socket) -> None:
        connection.sendall(sized(b"abc")[: None if asked.line.startswith("GET") else -3])

    with gateway(answer) as (client, server, _):
        head = client.head("/x")
        assert (head.headers["content-length"], head.content) == ("3", b"")
        assert client.get("/x").content == b"abc"
        assert len(server.connections) == 1


@pytest.mark.parametrize("framed", [sized, chunked, until_close])
def test_a_large_answer_passes_through_before_its_end_is_there(
    framed: Callable[[bytes], bytes],
) -> None:
    seen = threading.Event()
    whole = framed(LARGE)

    def answer(_: Asked, connection: socket.socket) -> bool:
        connection.sendall(whole[: len(whole) // 2])
        assert seen.wait(20), "the first half should have reached the client by now"
        connection.sendall(whole[len(whole) // 2 :])
        return framed is not until_close

    with gateway(answer, attempt_timeout_seconds=30.0) as (client, _, plane):
        with client.stream("GET", "/x") as response:
            parts = response.iter_raw(1024)
            read = next(parts)
            assert plane.state()["services"]["s"]["in_flight"] == 1
            seen.set()
            assert read + b"".join(parts) == LARGE
        while plane.state()["services"]["s"]["in_flight"]:
            time.sleep(0.01)


def test_server_sent_events_pass_through_one_by_one_however_long_they_take() -> None:
    seen = threading.Event()

    def answer(_: Asked, connection: socket.socket) -> bool:
        connection.sendall(
            OK + b"content-type: text/event-stream; charset=utf-8\r\n\r\ndata: 1\n\n"
        )
        assert seen.wait(20), "the first event should have reached the client by now"
        time.sleep(0.3)  # longer than an attempt may take
        connection.sendall(b"data: 2\n\n")
        return False

    with (
        gateway(answer, attempt_timeout_seconds=0.2) as (client, _, _plane),
        client.stream("GET", "/events") as response,
    ):
        lines = response.iter_lines()
        assert next(lines) == "data: 1"
        seen.set()
        assert [line for line in lines if line] == ["data: 2"]


def test_a_large_answer_that_breaks_off_reaches_nobody_as_a_whole_one() -> None:
    def answer(_: Asked, connection: socket.socket) -> bool:
        connection.sendall(sized(LARGE)[:-1])
        return False

    with gateway(answer) as (client, _, _plane), pytest.raises(httpx2.TransportError):
        client.get("/x")


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b"HTTP/1.1 200",
        sized(b"abc")[:-1],
        chunked(b"abc")[:-1],
        OK + b"content-length: 1\r\ncontent-length: 2\r\n\r\nab",
        OK + b"content-length: 1\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"nonsense\r\n\r\n",
    ],
)
def test_a_broken_answer_is_asked_for_again_where_that_is_safe(broken: bytes) -> None:
    def answer(asked: Asked, connection: socket.socket) -> bool | None:
        if len(server.asked) % 2:
            connection.sendall(broken)
            return False
        connection.sendall(sized(b"good"))
        return None

    with gateway(answer) as (client, server, _):
        assert client.get("/x").content == b"good"
        assert client.post("/x", headers={"idempotency-key": "k"}, content=b"a").content == b"good"
        assert len(server.asked) == 4
        failed = client.post("/x", content=b"a")
        assert failed.status_code == 502
        assert failed.headers["content-type"] == "application/problem+json"
        assert len(server.asked) == 5


def test_a_connection_closed_while_idle_costs_no_request() -> None:
    def answer(_: Asked, connection: socket.socket) -> None:
        connection.sendall(sized(b"abc"))

    with gateway(answer) as (client, server, _):
        for number in range(1, 6):
            assert client.post("/x", content=b"a").content == b"abc"
            assert len(server.connections) == number
            server.connections[-1].shutdown(socket.SHUT_RDWR)
            time.sleep(0.05)  # the end of the connection is on its way to the gateway


def test_who_does_not_answer_in_time_is_given_up() -> None:
    def answer(_: Asked, connection: socket.socket) -> None:
        connection.sendall(OK)
        done.wait(20)

    done = threading.Event()
    with gateway(answer, attempt_timeout_seconds=0.2, attempts=2) as (client, server, _):
        late = client.get("/x")
        assert (late.status_code, len(server.asked)) == (504, 2)
        done.set()


def test_bodies_arrive_as_they_were_sent() -> None:
    def answer(asked: Asked, connection: socket.socket) -> None:
        connection.sendall(sized(asked.body))

    with gateway(answer, attempt_timeout_seconds=20.0) as (client, server, _):
        for size in (0, 1, 16_384, 16_385, 262_144, 262_145, 2_097_152):
            body = LARGE[:size]
            assert client.post("/x", content=body).content == body
            assert client.post("/x", content=iter([body])).content == body
        assert len(server.connections) == 1


def test_an_answer_before_the_end_of_the_request_is_passed_on() -> None:
    listener = socket.create_server(("127.0.0.1", 0))

    def refuse() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(1024)
            connection.sendall(b"HTTP/1.1 413 Too Large\r\ncontent-length: 3\r\n\r\nbig")
            done.wait(20)

    done = threading.Event()
    threading.Thread(target=refuse, daemon=True).start()
    with listener, gateway(lambda _, __: None) as (client, _, plane):
        host, port = listener.getsockname()
        plane.set_endpoints("s", [("s-2", f"{host}:{port}")])
        answer = client.post("/x", content=LARGE + LARGE[:-600_000])
        assert (answer.status_code, answer.content) == (413, b"big")
        done.set()


def test_no_more_requests_at_once_than_a_service_may_have() -> None:
    def answer(_: Asked, connection: socket.socket) -> None:
        done.wait(20)
        connection.sendall(sized(b"abc"))

    done = threading.Event()
    with gateway(answer, concurrency=1, attempt_timeout_seconds=30.0) as (client, server, plane):
        first = threading.Thread(target=client.get, args=("/x",))
        first.start()
        while not server.asked:
            time.sleep(0.01)
        refused = httpx2.get(f"http://{plane.listen}/x")
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        done.set()
        first.join()
        assert httpx2.get(f"http://{plane.listen}/x").content == b"abc"


def test_a_drain_finishes_what_is_under_way_and_lets_nobody_new_in() -> None:
    def answer(_: Asked, connection: socket.socket) -> None:
        done.wait(20)
        connection.sendall(sized(b"abc"))

    done = threading.Event()
    with gateway(answer, attempt_timeout_seconds=30.0) as (client, server, plane):
        host, _, port = plane.listen.partition(":")
        idle = socket.create_connection((host, int(port)), timeout=20)
        answers: list[httpx2.Response] = []
        asking = threading.Thread(target=lambda: answers.append(client.get("/x")))
        asking.start()
        while not server.asked:
            time.sleep(0.01)
        draining = threading.Thread(target=plane.drain, args=(20.0,))
        draining.start()
        assert idle.recv(1) == b""
        with pytest.raises(ConnectionRefusedError):
            while True:  # the listener is closed at about the same time as who is idle
                socket.create_connection((host, int(port)), timeout=20).close()
        assert draining.is_alive()
        done.set()
        draining.join(20)
        asking.join(20)
        assert (answers[0].content, answers[0].headers["connection"]) == (b"abc", "close")
