"""Requests whose clients hang up before they are answered: recorded once, like any other."""

import json
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from upstream import OK, Asked, gateway

from counterfoil.gateway.data_plane import DataPlane

COMMAND = b"POST /pay HTTP/1.1\r\nhost: h\r\nidempotency-key: k1\r\ncontent-length: 3\r\n\r\npay"


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline, "it should have come true by now"
        time.sleep(0.01)


def counted(plane: DataPlane) -> list[int]:
    return plane.state()["routes"][0]["answers"]


@pytest.mark.parametrize("fails_first", [False, True])
def test_a_command_whose_client_hangs_up_leaves_the_stub_of_who_may_have_carried_it_out(
    tmp_path: Path, fails_first: bool
) -> None:
    asked, gone = threading.Event(), threading.Event()

    def answer(_: Asked, connection: socket.socket) -> bool | None:
        if fails_first and len(server.asked) == 1:
            return False
        asked.set()
        gone.wait(20)
        connection.sendall(OK + b"counterfoil-effect: 7\r\ncontent-length: 0\r\n\r\n")
        return None

    log = tmp_path / "access.jsonl"
    with gateway(answer, access_log=log, attempt_timeout_seconds=20.0) as (client, server, plane):
        host, _, port = plane.listen.partition(":")
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            connection.sendall(COMMAND)
            assert asked.wait(20)
            assert log.read_text() == ""
        until(lambda: log.read_text() != "")
        assert counted(plane) == [0, 0, 0, 1, 0]
        assert plane.state()["services"]["s"]["in_flight"] == 0
        gone.set()
        assert client.get("/other").status_code == 200
        given_up, other = map(json.loads, log.read_text().splitlines())
        assert (given_up["status"], given_up["method"], given_up["path"]) == (499, "POST", "/pay")
        assert (given_up["instance"], given_up["service"]) == ("s-1", "s")
        assert given_up["attempts"] == (2 if fails_first else 1)
        assert (given_up["idempotency_key"], given_up["effect"]) == ("k1", "")
        assert (other["status"], other["attempts"], other["effect"]) == (200, 1, "7")
        assert counted(plane) == [0, 1, 0, 1, 0]


def test_a_request_whose_time_is_over_before_its_turn_is_told_so() -> None:
    began, go_on = threading.Event(), threading.Event()

    def answer(_: Asked, connection: socket.socket) -> None:
        # Too large to be held: it keeps its place while its client waits for the rest.
        connection.sendall(OK + b"content-length: 1000000\r\n\r\n" + bytes(999_999))
        began.set()
        go_on.wait(20)
        connection.sendall(b"x")

    def free_when_time_is_over() -> None:
        until(lambda: plane.state()["services"]["s"]["waiting"] == 1)
        time.sleep(0.4)
        go_on.set()

    times: dict[str, Any] = {"request_timeout_seconds": 0.3, "queue_timeout_seconds": 20.0}
    with gateway(answer, concurrency=1, idle_timeout_seconds=20.0, **times) as (client, _, plane):
        first = threading.Thread(target=lambda: httpx2.get(f"http://{plane.listen}/first"))
        first.start()
        assert began.wait(20)
        threading.Thread(target=free_when_time_is_over, daemon=True).start()
        refused = client.get("/second")
        first.join(20)
        assert refused.status_code == 504
        assert "before the service could be asked" in refused.json()["detail"]
