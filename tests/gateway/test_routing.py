"""Which service a request goes to, by path, method, host and header."""

import socket
import threading
from collections.abc import Iterator

import httpx2
import pytest
from upstream import Asked, Server, sized

from counterfoil.gateway.config import GatewayConfig, Route
from counterfoil.gateway.data_plane import DataPlane

GET = ("GET",)
ROUTES = (
    Route(path="/*", methods=GET, service="all", identity=False),
    Route(path="/a/*", methods=GET, service="below", identity=False),
    Route(path="/a/b", methods=("POST",), service="posts", identity=False),
    Route(path="/h", methods=GET, hosts=("api.test",), service="api", identity=False),
    Route(path="/h", methods=GET, hosts=("*.test",), service="names", identity=False),
    Route(path="/v", methods=GET, headers={"api-version": "2"}, service="new", identity=False),
    Route(path="/v", methods=GET, service="old", identity=False),
    Route(path="/in", methods=GET, allow=("127.0.0.0/8",), service="all", identity=False),
    Route(path="/out", methods=GET, deny=("127.0.0.1",), service="all", identity=False),
)


@pytest.fixture(scope="module")
def client() -> Iterator[httpx2.Client]:
    plane = DataPlane(
        GatewayConfig(listen="127.0.0.1:0", admin="127.0.0.1:0", tls="off", routes=ROUTES),
        access_log=None,
        admin_credential="c",
    )
    servers: list[Server] = []
    for name in {route.service for route in ROUTES}:

        def answer(_: Asked, connection: socket.socket, name: str = name) -> None:
            connection.sendall(sized(name.encode()))

        server = Server(answer)
        threading.Thread(target=server.accept, daemon=True).start()
        plane.set_endpoints(name, [(f"{name}-1", server.address)])
        servers.append(server)
    with httpx2.Client(base_url=f"http://{plane.listen}", timeout=20) as client:
        yield client
    plane.drain(1.0)
    for server in servers:
        server.close()


@pytest.mark.parametrize(
    ("method", "path", "headers", "service"),
    [
        ("GET", "/x", {}, "all"),
        ("GET", "/a/x?b=1", {}, "below"),
        ("GET", "/a/b", {}, "below"),
        ("POST", "/a/b", {}, "posts"),
        ("GET", "/h", {"host": "api.test:1"}, "api"),
        ("GET", "/h", {"host": "shop.test"}, "names"),
        ("GET", "/h", {"host": "test"}, "all"),
        ("GET", "/v", {"api-version": "2"}, "new"),
        ("GET", "/v", {"api-version": "3"}, "old"),
    ],
)
def test_the_most_specific_route_that_fits_is_taken(
    client: httpx2.Client, method: str, path: str, headers: dict[str, str], service: str
) -> None:
    assert client.request(method, path, headers=headers).text == service


def test_a_method_that_no_route_has_is_told_those_that_there_are(client: httpx2.Client) -> None:
    refused = client.put("/a/b")
    assert (refused.status_code, refused.headers["allow"]) == (405, "POST, GET")


def test_who_asks_from_elsewhere_is_refused(client: httpx2.Client) -> None:
    assert client.get("/in").status_code == 200
    refused = client.get("/out")
    assert (refused.status_code, refused.headers["content-type"]) == (
        403,
        "application/problem+json",
    )
