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
    Route(path="/inner/*", methods=GET, deny=("127.0.0.1",), service="all", identity=False),
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


def asked(client: httpx2.Client, path: str) -> str:
    """The status of a request for this path, to the letter."""
    host, port = client.base_url.host, client.base_url.port
    assert port is not None
    with socket.create_connection((host, port), timeout=20) as connection:
        head = f"GET {path} HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n"
        connection.sendall(head.encode())
        return connection.recv(64).split()[1].decode()


@pytest.mark.parametrize(
    "path", ["//inner/x", "/inner%2Fx", "/%5cinner/x", "/inner;a=1/x", "/;a//inner/x", "/out;a"]
)
def test_no_other_writing_of_a_path_is_a_way_around_what_its_route_asks_for(
    client: httpx2.Client, path: str
) -> None:
    assert asked(client, "/inner/x") == "403"
    assert asked(client, path) == "400"


@pytest.mark.parametrize("path", ["//a/x", "/x//inner", "/a%2Fb", "/x;inner", "//v", "/x%2Fy"])
def test_a_path_that_leads_to_nothing_else_that_is_guarded_goes_on_as_it_came(
    client: httpx2.Client, path: str
) -> None:
    assert asked(client, path) == "200"
