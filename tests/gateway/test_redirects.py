"""Routes that send their clients elsewhere."""

import http.client
from collections.abc import Iterator

import pytest

from counterfoil.gateway.config import Cors, GatewayConfig, Redirect, Route
from counterfoil.gateway.data_plane import DataPlane

GET = ("GET", "POST")
WWW = "www.shop.example"
ROUTES = (
    Route(path="/moved/*", methods=GET, redirect=Redirect(host=WWW)),
    Route(path="/old/*", methods=GET, redirect=Redirect(prefix="/old", to="/new/shop", status=301)),
    Route(path="/gone/*", methods=GET, redirect=Redirect(prefix="/gone", status=302)),
    Route(path="/one", methods=GET, redirect=Redirect(path="/other", query=False, status=307)),
    Route(
        path="/all/*",
        methods=GET,
        redirect=Redirect(scheme="http", host=f"{WWW}:8080", path="/"),
        cors=Cors(origins=("*",)),
    ),
    Route(path="/*", methods=GET, hosts=("*.shop.example",), redirect=Redirect(scheme="https")),
)


@pytest.fixture(scope="module")
def plane() -> Iterator[DataPlane]:
    plane = DataPlane(
        GatewayConfig(listen="127.0.0.1:0", admin="127.0.0.1:0", tls="off", routes=ROUTES),
        access_log=None,
        admin_credential="c",
    )
    yield plane
    plane.drain(1.0)


def ask(plane: DataPlane, target: str, **headers: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection(plane.listen, timeout=20)
    connection.request("GET", target, headers=headers)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer


@pytest.mark.parametrize(
    ("target", "host", "status", "location"),
    [
        ("/moved/a?b=c", "h", 308, f"https://{WWW}/moved/a?b=c"),
        ("/moved//evil.example", "h", 308, f"https://{WWW}/moved//evil.example"),
        ("/old/a/b?c", "h", 301, "/new/shop/a/b?c"),
        ("/gone/a", "h", 302, "/a"),
        ("/gone//evil.example/a", "h", 302, "/evil.example/a"),
        ("/gone/%5cevil.example", "h", 302, "/%5cevil.example"),
        ("/%67one/%0d%0ax-a:b?%0d%0ax-b:c", "h", 302, "/%0d%0ax-a:b?%0d%0ax-b:c"),
        ("/one?a=b", "h", 307, "/other"),
        ("/all/x?y", "h", 308, f"http://{WWW}:8080/?y"),
        ("/x/y?z", "a.Shop.example:8080", 308, "https://a.shop.example/x/y?z"),
    ],
)
def test_clients_are_sent_where_the_configuration_says(
    plane: DataPlane, target: str, host: str, status: int, location: str
) -> None:
    answer = ask(plane, target, Host=host)
    assert (answer.status, answer.headers["location"]) == (status, location)
    assert answer.headers["content-length"] == "0"


@pytest.mark.parametrize(
    "host", ["evil.example/.shop.example", "user@a.shop.example", "a b.shop.example"]
)
def test_a_host_that_is_none_leads_nowhere(plane: DataPlane, host: str) -> None:
    answer = ask(plane, "/x", Host=host)
    assert (answer.status, answer.headers["location"]) == (400, None)


def test_a_path_that_climbs_and_another_method_lead_nowhere(plane: DataPlane) -> None:
    assert ask(plane, "/gone/../x").status == 400
    connection = http.client.HTTPConnection(plane.listen, timeout=20)
    connection.request("DELETE", "/one")
    assert connection.getresponse().status == 405
    connection.close()


def test_pages_of_other_origins_follow_where_they_may_ask(plane: DataPlane) -> None:
    answer = ask(plane, "/all/x", Origin="https://a.example")
    assert (answer.status, answer.headers["access-control-allow-origin"]) == (308, "*")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({}, "elsewhere"),
        ({"host": "www.shop.example/x"}, "no name"),
        ({"host": "www.shop.example\r\nx: y"}, "no name"),
        ({"host": "user@shop.example"}, "no name"),
        ({"path": "//evil.example"}, "no plain path"),
        ({"path": "/a\\b"}, "no plain path"),
        ({"path": "/a", "prefix": "/old"}, "not both"),
        ({"to": "/new"}, "prefix"),
        ({"prefix": "/new"}, "begin with"),
        ({"scheme": "https"}, "hosts"),
    ],
)
def test_a_redirect_that_could_lead_anywhere_is_refused(
    settings: dict[str, str], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        Route(path="/old/*", methods=GET, redirect=Redirect(**settings))  # type: ignore[arg-type]


def test_a_route_has_a_service_or_a_redirect() -> None:
    with pytest.raises(ValueError, match="leads nowhere"):
        Route(path="/", methods=GET)
    with pytest.raises(ValueError, match="leave service, limits out"):
        Route(path="/", methods=GET, service="s", limits=("l",), redirect=Redirect(path="/a"))
