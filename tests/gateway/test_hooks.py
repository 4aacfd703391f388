"""Hooks have their say, in processes that may be slow, busy, wrong or dead."""

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx2
import pytest
from upstream import Asked, Server, serving, sized

from counterfoil.engines import free_port
from counterfoil.gateway.config import GatewayConfig, HookSettings, Route
from counterfoil.gateway.data_plane import DataPlane, GatewayError
from counterfoil.gateway.services import Upstream

HOOKING = Path(__file__).with_name("hooking.py")


class Process:
    """One process of a hook, which can be ended and started again."""

    def __init__(self, name: str) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        self._command = [sys.executable, str(HOOKING), name, self.address]
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(
            self._command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


def echo(asked: Asked, connection: socket.socket) -> None:
    said = f"{asked.headers.get('x-seen', '')}|{asked.headers.get('x-mine', '')}"
    connection.sendall(sized(said.encode()))


@contextmanager
def hooked(
    name: str,
    *,
    processes: int = 1,
    answer: Callable[[Asked, socket.socket], bool | None] = echo,
    addresses: tuple[str, ...] = (),
    **settings: object,
) -> Generator[tuple[httpx2.Client, Server, DataPlane, list[Process]], None, None]:
    """A gateway with the hook `name` on /hooked, and none on /free."""
    hook = HookSettings(processes=processes, **{"deadline_ms": 5_000, **settings})  # type: ignore[arg-type]
    with ExitStack() as stack:
        server = stack.enter_context(serving(answer))
        running = [Process(name) for _ in range(0 if addresses else processes)]
        for each in running:
            stack.callback(each.kill)
        route = {"methods": ("GET", "POST"), "service": "s", "identity": False}
        plane = DataPlane(
            GatewayConfig(
                listen="127.0.0.1:0",
                admin="127.0.0.1:0",
                tls="off",
                hooks={name: hook},
                routes=(
                    Route(path="/hooked", hooks=(name,), **route),  # type: ignore[arg-type]
                    Route(path="/free", **route),  # type: ignore[arg-type]
                ),
                services={"s": Upstream()},
            ),
            access_log=None,
            admin_credential="c",
            hooks={name: addresses or [each.address for each in running]},
        )
        plane.set_endpoints("s", [("s-1", server.address)])
        stack.callback(plane.drain, 5.0)
        client = stack.enter_context(httpx2.Client(base_url=f"http://{plane.listen}", timeout=20))
        yield client, server, plane, running


def counts(plane: DataPlane) -> dict[str, int]:
    return plane.state()["hooks"][0]


def test_a_hook_sees_the_request_and_sets_headers_in_place_of_the_clients() -> None:
    with hooked("mark") as (client, _, plane, _):
        answer = client.post("/hooked?a=1", headers={"X-Mine": "client"}, content=b"x")
        assert answer.text == "POST /hooked?a=1 client|hooked"
        assert client.get("/free", headers={"X-Mine": "client"}).text == "|client"
        assert counts(plane)["passed"] == 1, "a route without the hook does not ask it"


def test_a_hook_refuses_with_a_status_and_a_reason() -> None:
    with hooked("refuse") as (client, server, plane, _):
        answer = client.get("/hooked")
        assert answer.status_code == 403
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["detail"] == "127.0.0.1 is no friend"
        assert answer.headers["retry-after"] == "7"
        assert not server.asked, "nothing of it reached the service"
        assert client.get("/hooked", headers={"x-friend": "yes"}).status_code == 200
        assert counts(plane)["refused"] == 1


def test_an_asynchronous_hook_waits_for_many_at_once() -> None:
    with hooked("wait") as (client, _, _, _), ThreadPoolExecutor(20) as pool:
        client.get("/hooked", headers={"x-wait": "0"})
        begun = time.monotonic()
        answers = list(
            pool.map(lambda _: client.get("/hooked", headers={"x-wait": "1"}), range(20))
        )
        assert {answer.text for answer in answers} == {"waited|"}
        assert time.monotonic() - begun < 10, "not one after the other"


@pytest.mark.parametrize("name", ["fail", "forge", "nonsense"])
@pytest.mark.parametrize(("failure", "status"), [("refuse", 503), ("pass", 200)])
def test_a_wrong_hook_is_no_answer(name: str, failure: str, status: int) -> None:
    with hooked(name, failure=failure) as (client, server, plane, _):
        answer = client.get("/hooked")
        assert answer.status_code == status
        if status == 503:
            assert answer.headers["retry-after"] == "1"
            assert name in answer.json()["detail"]
        assert all("x-counterfoil-tenant" not in asked.headers for asked in server.asked)
        assert counts(plane)["failed"] == 1
        assert client.get("/free").status_code == 200


def test_a_slow_hook_is_given_up_and_holds_nobody_else_back() -> None:
    with hooked("block", deadline_ms=100) as (client, _, plane, _), ThreadPoolExecutor(1) as pool:
        slow = pool.submit(client.get, "/hooked", headers={"x-wait": "3"})
        while not counts(plane)["waiting"] and not slow.done():
            time.sleep(0.001)
        assert client.get("/free").status_code == 200
        answer = slow.result()
        assert answer.status_code == 503
        assert "did not answer in time" in answer.json()["detail"]
        assert counts(plane)["late"] == 1
        # The answer that came too late is not taken for that of the next request.
        deadline = time.monotonic() + 20
        while (after := client.get("/hooked")).status_code != 200:
            assert time.monotonic() < deadline
        assert after.text == "blocked|"


def test_no_more_wait_for_a_hook_than_may() -> None:
    with hooked("wait", queue=1) as (client, _, plane, _), ThreadPoolExecutor(1) as pool:
        first = pool.submit(client.get, "/hooked", headers={"x-wait": "2"})
        while not counts(plane)["waiting"]:
            time.sleep(0.001)
        answer = client.get("/hooked", headers={"x-wait": "0"})
        assert answer.status_code == 503
        assert "as many requests" in answer.json()["detail"]
        assert counts(plane)["full"] == 1
        assert first.result().status_code == 200


def test_a_process_that_dies_is_stood_in_for_and_found_again() -> None:
    with hooked("mark", processes=2) as (client, _, _, running):
        assert client.get("/hooked").status_code == 200
        for each in running:
            each.kill()
        answer = client.get("/hooked")
        assert answer.status_code == 503
        assert "can't be reached" in answer.json()["detail"]
        for each in running:
            each.start()
        assert client.get("/hooked").status_code == 200


@pytest.mark.parametrize("dead", [0, 1])
def test_while_one_process_is_dead_the_others_are_asked(dead: int) -> None:
    with hooked("mark", processes=2, failure="refuse") as (client, _, plane, running):
        assert client.get("/hooked").status_code == 200
        running[dead].kill()
        for _ in range(4):
            assert client.get("/hooked").status_code == 200
        (hook,) = plane.state()["hooks"]
        assert (hook["passed"], hook["failed"]) == (5, 0)
        running[dead].start()


def test_what_is_no_answer_is_not_taken_for_one() -> None:
    said = iter((b"\0\0\0\4true", b"\xff\xff\xff\xff", b"\0\0\0\1", b"HTTP/1.1 200 OK\r\n\r\n"))
    listener = socket.create_server(("127.0.0.1", 0))

    def babble() -> None:
        for answer in said:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65_536)
                connection.sendall(answer)

    threading.Thread(target=babble, daemon=True).start()
    host, port = listener.getsockname()
    with listener, hooked("mark", addresses=(f"{host}:{port}",)) as (client, _, plane, _):
        for number in range(1, 5):
            assert client.get("/hooked").status_code == 503
            assert counts(plane)["failed"] == number
        metrics = f"http://{plane.admin}/metrics"
        told = httpx2.get(metrics, headers={"authorization": "Bearer c"}).text.splitlines()
        name = "counterfoil_gateway_hook_answers_total"
        assert f'{name}{{hook="mark",outcome="failed"}} 4' in told
        assert f'{name}{{hook="mark",outcome="passed"}} 0' in told


def test_what_is_no_question_ends_its_connection_alone() -> None:
    with hooked("mark") as (client, _, _, running):
        host, _, port = running[0].address.rpartition(":")
        for rubbish in (b"\0\0\0\2{}", b"\xff\xff\xff\xff", b"GET / HTTP/1.1\r\n\r\n"):
            with socket.create_connection((host, int(port)), timeout=10) as connection:
                connection.sendall(rubbish)
                connection.shutdown(socket.SHUT_WR)
                assert connection.recv(10) == b""
        assert client.get("/hooked").status_code == 200


def test_a_route_with_an_unknown_hook_is_refused() -> None:
    with pytest.raises(GatewayError, match="unknown hook spam"):
        DataPlane(
            GatewayConfig(
                listen="127.0.0.1:0",
                admin="127.0.0.1:0",
                tls="off",
                routes=(Route(path="/", methods=("GET",), service="s", hooks=("spam",)),),
            ),
            access_log=None,
            admin_credential="c",
        )
