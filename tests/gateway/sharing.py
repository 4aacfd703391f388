"""Gateways that share their limits by a real Redis, and their clients."""

import http.client
import http.server
import os
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, Literal

from counterfoil.engines import RunningEngine
from counterfoil.gateway.config import GatewayConfig, Limit, Route
from counterfoil.gateway.data_plane import DataPlane, SharedLimits

TICK = 0.01


class Service(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Keep the tests' output quiet."""


class Node:
    """A gateway and a client of it."""

    def __init__(self, plane: DataPlane) -> None:
        self.plane = plane
        self._connection = http.client.HTTPConnection(plane.listen, timeout=60)

    def get(self) -> http.client.HTTPResponse:
        self._connection.request("GET", "/x")
        response = self._connection.getresponse()
        response.read()
        return response

    def statuses(self, number: int) -> list[int]:
        return [self.get().status for _ in range(number)]

    @property
    def link(self) -> dict[str, Any]:
        return self.plane.state()["shared_limits"]

    @property
    def allowed(self) -> int:
        return self.plane.state()["limits"][0]["allowed"]


def until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline, "this should have come true"
        time.sleep(TICK)


def redis_cli(redis: RunningEngine, *command: str, secret: str = "") -> str:
    port = redis.address.removesuffix("/0").rpartition(":")[2]
    environment = {**os.environ, "REDISCLI_AUTH": secret or redis.secret}
    done = subprocess.run(
        ["redis-cli", "-p", port, *command],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@contextmanager
def gateways(
    number: int,
    service: str,
    redis: RunningEngine | str,
    *,
    rate: float,
    burst: int,
    fallback: Literal["local", "refuse"] = "local",
    strict: bool = False,
    application: str = "",
    password: str = "",
) -> Generator[list[Node], None, None]:
    """Nodes of one application; without a name, one that no other test shares limits with."""
    address, secret = (redis, "") if isinstance(redis, str) else (redis.address, redis.secret)
    shared = SharedLimits(address, application or uuid.uuid4().hex, password=password or secret)
    config = GatewayConfig(
        listen="127.0.0.1:0",
        admin="127.0.0.1:0",
        tls="off",
        limits={
            "all": Limit(key="address", rate=rate, burst=burst, fallback=fallback, strict=strict)
        },
        routes=(Route(path="/x", methods=("GET",), service="s", identity=False, limits=("all",)),),
    )
    planes: list[DataPlane] = []
    for _ in range(number):
        plane = DataPlane(config, access_log=None, admin_credential="c", shared_limits=shared)
        plane.set_endpoints("s", [("s-1", service)])
        planes.append(plane)
    yield [Node(plane) for plane in planes]
    for plane in planes:
        plane.drain(0.0)


@contextmanager
def load(nodes: list[Node]) -> Generator[list[int], None, None]:
    """Send to every node as fast as it answers; the statuses so far."""
    done = threading.Event()
    statuses: list[int] = []

    def send(node: Node) -> None:
        while not done.is_set():
            statuses.append(node.get().status)

    senders = [threading.Thread(target=send, args=(node,)) for node in nodes]
    for sender in senders:
        sender.start()
    try:
        yield statuses
    finally:
        done.set()
        for sender in senders:
            sender.join()
