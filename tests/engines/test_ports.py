"""Whoever asks for a free port gets one that nobody else is given before it can be used."""

import socket
import subprocess
import sys

import pytest

from counterfoil.engines import ports
from counterfoil.engines.server import HOST

TAKES = """
import sys
from counterfoil.engines import ports
ports.PORTS = range(25_000, 25_400)
print(*(ports.free_port() for _ in range(60)), flush=True)
sys.stdin.read()
"""


def test_processes_that_ask_at_once_get_ports_of_their_own() -> None:
    command = [sys.executable, "-c", TAKES]
    started = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    given: list[int] = []
    for process in started:
        assert process.stdout is not None
        given += [int(port) for port in process.stdout.readline().split()]
    for process in started:
        process.communicate()
    assert len(set(given)) == len(given) == 240


def test_a_port_at_which_somebody_listens_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    claimed, free = ports.free_port(), ports.free_port()
    ports._claims.pop().close()
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        order = iter([claimed, taken.getsockname()[1], free])
        monkeypatch.setattr(ports.secrets, "choice", lambda _: next(order))
        assert ports.free_port() == free


def test_claims_are_given_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "CLAIMS", 3)
    for _ in range(10):
        ports.free_port()
    assert len(ports._claims) <= 3
