"""Both engines, real: the embedded node behind HTTP on a free port, and etcd."""

import asyncio
import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from granian.constants import Interfaces
from granian.server.embed import Server

from counterfoil.coordination import Client, EmbeddedClient, EtcdClient, Unavailable
from counterfoil.coordination.server import application
from counterfoil.engines import RunningEngine

CREDENTIAL = "only-for-this-test"
Connect = Callable[[], Client]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[str]:
    """The address of an embedded node that runs for as long as the test."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    asgi = application(tmp_path / "coordination.db", CREDENTIAL)
    server = Server(asgi, "127.0.0.1", port, interface=Interfaces.ASGI, log_enabled=False)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()))
    thread.start()
    address = f"http://127.0.0.1:{port}"
    waiting = threading.Event()
    while True:
        try:
            EmbeddedClient(address, CREDENTIAL).range("/")
            break
        except Unavailable:
            waiting.wait(0.02)
    yield address
    server.stop()
    thread.join()


@pytest.fixture
def etcd(engine: Callable[[str], RunningEngine]) -> RunningEngine:
    """One member of etcd, shared by all tests: each has an application of its own."""
    return engine("etcd")


@pytest.fixture(params=["embedded", "etcd"])
def arguments(request: pytest.FixtureRequest) -> tuple[str, str, str]:
    """Engine, address, and what opens it: enough for another process to connect."""
    if request.param == "embedded":
        return "embedded", request.getfixturevalue("node"), CREDENTIAL
    return "etcd", request.getfixturevalue("etcd").address, uuid.uuid4().hex


@pytest.fixture
def client(arguments: tuple[str, str, str]) -> Client:
    """A client of each engine in turn, over an empty store."""
    return connect(*arguments)


def connect(engine: str, address: str, key: str) -> Client:
    """A client of an engine; `key` is the node's credential, or the application in etcd."""
    return EmbeddedClient(address, key) if engine == "embedded" else EtcdClient(address, key)
