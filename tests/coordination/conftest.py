"""A real coordination node, behind HTTP on a free port."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from granian.constants import Interfaces
from granian.server.embed import Server

from counterfoil.coordination import Client, Unavailable, connect
from counterfoil.coordination.server import application

CREDENTIAL = "only-for-this-test"


@pytest.fixture
def credential() -> str:
    """What the node wants to see."""
    return CREDENTIAL


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """The address of a node that runs for as long as the test."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    asgi = application(tmp_path / "coordination.db", CREDENTIAL)
    server = Server(asgi, "127.0.0.1", port, interface=Interfaces.ASGI, log_enabled=False)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()))
    thread.start()
    found = f"http://127.0.0.1:{port}"
    waiting = threading.Event()
    while True:
        try:
            connect(found, CREDENTIAL).range("/")
            break
        except Unavailable:
            waiting.wait(0.02)
    yield found
    server.stop()
    thread.join()


@pytest.fixture
def client(address: str) -> Client:
    """A client of the node."""
    return connect(address, CREDENTIAL)
