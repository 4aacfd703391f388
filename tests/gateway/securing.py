"""A gateway in front of servers that speak TLS, each with a context of its own."""

import socket
import ssl
import threading
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import http2_upstream
import httpx2
import upstream
from upstream import sized

from counterfoil.gateway.config import GatewayConfig, Route
from counterfoil.gateway.data_plane import DataPlane
from counterfoil.gateway.services import ServiceTls, Upstream

Protocol = Literal["http/1.1", "h2"]
Server = upstream.Server | http2_upstream.Server


def good(_: upstream.Asked, connection: socket.socket) -> None:
    connection.sendall(sized(b"good"))


def good2(asked: http2_upstream.Asked, connection: http2_upstream.Connection) -> None:
    connection.respond(asked, b"good")


@contextmanager
def server(
    context: ssl.SSLContext | None,
    answer: Callable[[upstream.Asked, socket.socket], bool | None] = good,
) -> Generator[upstream.Server, None, None]:
    """A server of HTTP/1.1."""
    with upstream.serving(answer) as serving:
        serving.tls = context
        yield serving


@contextmanager
def speaking(protocol: Protocol, context: ssl.SSLContext) -> Generator[Server, None, None]:
    """A server of either protocol that answers everything with `good`."""
    with ExitStack() as stack:
        if protocol == "h2":
            yield stack.enter_context(
                http2_upstream.serving(http2_upstream.Server(good2, tls=context))
            )
        else:
            yield stack.enter_context(server(context))


@dataclass
class Before:
    """A gateway, and a client of it."""

    client: httpx2.Client
    plane: DataPlane
    config: GatewayConfig

    def trouble(self, instance: str = "s-0") -> str | None:
        return self.endpoint(instance)["tls_trouble"]

    def endpoint(self, instance: str = "s-0") -> dict[str, Any]:
        found = self.plane.state()["services"]["s"]["endpoints"]
        return next(each for each in found if each["instance"] == instance)

    def handshakes(self) -> dict[str, int]:
        """By what became of them."""
        url = f"http://{self.plane.admin}/metrics"
        page = self.client.get(url, headers={"authorization": "Bearer c"}).text
        name = 'counterfoil_gateway_instance_tls_total{service="s",outcome="'
        lines = [line for line in page.splitlines() if line.startswith(name)]
        pairs = [line.removeprefix(name).split('"} ') for line in lines]
        return {outcome: int(count) for outcome, count in pairs}


@contextmanager
def before(*servers: Server, tls: ServiceTls, **settings: Any) -> Generator[Before, None, None]:
    """The gateway of a service with these instances, s-0, s-1 and so on."""
    route = Route(path="/*", methods=("GET", "POST"), service="s", identity=False)
    config = GatewayConfig(
        listen="127.0.0.1:0",
        admin="127.0.0.1:0",
        tls="off",
        routes=(route,),
        request_body_limit=0,
        services={"s": Upstream(tls=tls, **settings)},
    )
    plane = DataPlane(config, access_log=None, admin_credential="c")
    plane.set_endpoints("s", [(f"s-{n}", each.address) for n, each in enumerate(servers)])
    with httpx2.Client(base_url=f"http://{plane.listen}", timeout=20) as client:
        yield Before(client, plane, config)
    plane.drain(5.0)


@contextmanager
def asking(client: httpx2.Client) -> Generator[list[int], None, None]:
    """Ask without a pause until the end; the statuses so far."""
    statuses: list[int] = []
    ended = threading.Event()

    def ask() -> None:
        while not ended.is_set():
            statuses.append(client.post("/meanwhile", content=b"once").status_code)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield statuses
    finally:
        ended.set()
        thread.join()
