"""Which pages of other origins may ask, and read what is answered."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from upstream import Asked, Server, serving

from counterfoil.gateway.config import Cache, Cors, GatewayConfig, Limit, Route
from counterfoil.gateway.credentials import ApiKey
from counterfoil.gateway.data_plane import DataPlane
from counterfoil.gateway.services import Upstream

SHOP = "https://shop.example"
ALL = ("GET", "PUT")
CORS = Cors(
    origins=(SHOP, "https://*.shop.example"),
    headers=("content-type", "x-a"),
    exposed_headers=("x-total", "x-left"),
    credentials=True,
    max_age_seconds=60,
)
EVERYBODY = Cors(origins=("*",), headers=("*",))
ROUTES = (
    Route(path="/known", methods=ALL, service="s", cors=CORS),  # wants an identity
    Route(path="/open", methods=ALL, service="s", identity=False, cors=CORS),
    Route(path="/kept", methods=ALL, service="s", identity=False, cors=CORS, cache=Cache()),
    Route(path="/all", methods=ALL, service="s", identity=False, cors=EVERYBODY),
    Route(path="/once", methods=("GET",), service="s", identity=False, cors=CORS, limits=("one",)),
    Route(path="/own", methods=(*ALL, "OPTIONS"), service="s", identity=False),
    Route(path="/mixed", methods=("GET", "OPTIONS"), service="s", identity=False, cors=CORS),
    Route(path="/near", methods=ALL, service="s", deny=("127.0.0.1",), cors=CORS),
    Route(path="/two", methods=("GET",), service="s", identity=False, cors=CORS),
    Route(path="/two", methods=("PUT",), service="s", identity=False),
    Route(path="/v", methods=ALL, headers={"v": "2"}, service="s", identity=False, cors=CORS),
    Route(path="/v", methods=ALL, service="s", identity=False),
    Route(
        path="/w",
        methods=ALL,
        headers={"v": "2"},
        service="s",
        identity=False,
        cors=Cors(origins=(SHOP,), headers=("v",), credentials=True),
    ),
    Route(
        path="/w",
        methods=ALL,
        service="s",
        identity=False,
        cors=Cors(origins=(SHOP,), headers=("v",), max_age_seconds=5),
    ),
)
ANSWER = (
    b"HTTP/1.1 200 OK\r\naccess-control-allow-origin: *\r\naccess-control-allow-origin: x\r\n"
    b"access-control-allow-credentials: true\r\naccess-control-expose-headers: x-b\r\n"
    b"access-control-allow-methods: GET\r\nvary: accept\r\ncache-control: max-age=60\r\n"
    b"content-length: 2\r\n\r\nok"
)


def answer(_: Asked, connection: socket.socket) -> None:
    connection.sendall(ANSWER)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(answer) as server:
        yield server


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cors") / "access.jsonl"


@pytest.fixture(scope="module")
def client(server: Server, log: Path) -> Iterator[httpx2.Client]:
    plane = DataPlane(
        GatewayConfig(
            listen="127.0.0.1:0",
            admin="127.0.0.1:0",
            tls="off",
            api_keys={"k": ApiKey(sha256="0" * 64, tenant="t")},
            limits={"one": Limit(key="route", rate=0.001, burst=1)},
            routes=ROUTES,
            services={"s": Upstream()},
        ),
        access_log=log,
        admin_credential="c",
    )
    plane.set_endpoints("s", [("s-1", server.address)])
    with httpx2.Client(base_url=f"http://{plane.listen}", timeout=20) as client:
        yield client
    plane.drain(1.0)


def preflight(
    client: httpx2.Client, path: str, origin: str, method: str, headers: str = ""
) -> httpx2.Response:
    asked = {"origin": origin, "access-control-request-method": method}
    if headers:
        asked["access-control-request-headers"] = headers
    return client.options(path, headers=asked)


def said(response: httpx2.Response) -> dict[str, str]:
    """What an answer says of origins; a header that came twice would have its values joined."""
    return {
        name.removeprefix("access-control-"): value
        for name, value in response.headers.items()
        if name.startswith("access-control-")
    }


def test_a_preflight_is_answered_without_identity_and_without_the_service(
    client: httpx2.Client, server: Server
) -> None:
    asked = len(server.asked)
    granted = preflight(client, "/known", SHOP, "PUT", "x-a,content-type")
    assert (granted.status_code, granted.content) == (204, b"")
    assert said(granted) == {
        "allow-origin": SHOP,
        "allow-credentials": "true",
        "allow-methods": "PUT",
        "allow-headers": "x-a, content-type",
        "max-age": "60",
    }
    assert granted.headers.get_list("vary", split_commas=True) == [
        "Access-Control-Request-Method",
        "Access-Control-Request-Headers",
        "Origin",
    ]
    assert len(server.asked) == asked


@pytest.mark.parametrize(
    ("origin", "method", "headers", "detail"),
    [
        ("https://evil.example", "PUT", "", "origins"),
        ("https://evil.example/.shop.example", "PUT", "", "origins"),
        ("null", "PUT", "", "origins"),
        (SHOP, "PUT", "x-a, x-b", "x-b"),
    ],
)
def test_a_preflight_that_asks_for_too_much_is_told_what(
    client: httpx2.Client, origin: str, method: str, headers: str, detail: str
) -> None:
    refused = preflight(client, "/known", origin, method, headers)
    assert refused.status_code == 403
    assert detail in refused.json()["detail"]
    assert "allow-methods" not in said(refused)
    assert ("allow-origin" in said(refused)) == (origin == SHOP)


def test_a_preflight_for_a_method_that_no_route_has_is_answered_as_any_request(
    client: httpx2.Client,
) -> None:
    assert preflight(client, "/open", SHOP, "DELETE").status_code == 405
    assert preflight(client, "/nowhere", SHOP, "GET").status_code == 404


def test_a_service_that_is_asked_by_options_grants_nothing_that_its_route_does_not(
    client: httpx2.Client, server: Server
) -> None:
    before = len(server.asked)
    for origin in (SHOP, "https://evil.example"):
        refused = preflight(client, "/mixed", method="DELETE", origin=origin)
        assert refused.status_code == 403
        assert "access-control-allow-methods" not in refused.headers
    assert len(server.asked) == before
    assert client.options("/mixed").is_success
    assert len(server.asked) == before + 1


def test_what_the_service_says_of_origins_is_replaced(client: httpx2.Client) -> None:
    for origin in (SHOP, "https://a.b.shop.example"):
        answered = client.get("/open", headers={"origin": origin})
        assert said(answered) == {
            "allow-origin": origin,
            "allow-credentials": "true",
            "expose-headers": "x-total, x-left",
        }
        assert answered.headers.get_list("vary") == ["accept", "Origin"]


@pytest.mark.parametrize("headers", [{}, {"origin": "https://evil.example"}])
def test_who_is_not_let_in_gets_no_header_and_caches_are_told_that_it_depends(
    client: httpx2.Client, headers: dict[str, str]
) -> None:
    for path in ("/open", "/kept"):
        answered = client.get(path, headers=headers)
        assert (answered.status_code, said(answered)) == (200, {})
        assert "Origin" in answered.headers.get_list("vary")


def test_two_origins_in_one_request_are_nobodys(client: httpx2.Client) -> None:
    assert said(client.get("/open", headers=[("origin", SHOP), ("origin", SHOP)])) == {}


def test_an_answer_out_of_the_cache_is_for_the_origin_that_asks(
    client: httpx2.Client, server: Server
) -> None:
    client.get("/kept", headers={"origin": SHOP})
    asked = len(server.asked)
    for origin in (SHOP, "https://a.shop.example"):
        answered = client.get("/kept", headers={"origin": origin})
        assert said(answered)["allow-origin"] == origin
    assert len(server.asked) == asked


def test_pages_can_read_why_they_are_refused(client: httpx2.Client) -> None:
    refused = client.get("/known", headers={"origin": SHOP})
    assert (refused.status_code, said(refused)["allow-origin"]) == (401, SHOP)


def test_a_preflight_leaves_a_line_in_the_access_log(client: httpx2.Client, log: Path) -> None:
    granted = preflight(client, "/known", SHOP, "PUT")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    (line,) = [line for line in lines if line["request_id"] == granted.headers["x-request-id"]]
    assert (line["method"], line["path"], line["status"]) == ("OPTIONS", "/known", 204)
    assert (line["service"], line["instance"], line["attempts"]) == ("s", "", 0)


def test_networks_that_may_not_ask_may_not_ask_before_either(client: httpx2.Client) -> None:
    refused = preflight(client, "/near", SHOP, "PUT")
    assert (refused.status_code, "allow-methods" in said(refused)) == (403, False)


def test_preflights_are_not_counted_by_limits(client: httpx2.Client) -> None:
    for _ in range(3):
        assert preflight(client, "/once", SHOP, "GET").status_code == 204
    statuses = [client.get("/once", headers={"origin": SHOP}).status_code for _ in range(2)]
    assert statuses == [200, 429]


def test_everybody_is_the_same_for_all_and_authorization_must_be_named(
    client: httpx2.Client,
) -> None:
    answered = client.get("/all", headers={"origin": "null"})
    assert said(answered) == {"allow-origin": "*"}
    assert answered.headers.get_list("vary") == ["accept"]
    granted = preflight(client, "/all", "null", "PUT", "x-any")
    assert (granted.status_code, said(granted)["allow-origin"]) == (204, "*")
    assert preflight(client, "/all", "null", "PUT", "authorization").status_code == 403


def test_a_route_without_cors_leaves_preflights_to_its_service(client: httpx2.Client) -> None:
    answered = preflight(client, "/own", SHOP, "PUT")
    assert (answered.status_code, answered.headers.get_list("access-control-allow-origin")) == (
        200,
        ["*", "x"],
    )


def test_a_preflight_is_about_the_route_of_its_method(client: httpx2.Client) -> None:
    granted = preflight(client, "/two", SHOP, "GET")
    assert (granted.status_code, said(granted)["allow-methods"]) == (204, "GET")
    assert preflight(client, "/two", SHOP, "PUT").status_code == 405


def test_every_route_that_may_take_the_request_has_to_let_it(client: httpx2.Client) -> None:
    """Which of them takes it depends on headers, of which a preflight tells the names alone."""
    assert preflight(client, "/v", SHOP, "PUT").status_code == 403
    granted = preflight(client, "/w", SHOP, "PUT", "v")
    assert granted.status_code == 204
    assert said(granted)["max-age"] == "5"
    assert "allow-credentials" not in said(granted)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"origins": ()}, "origins"),
        ({"origins": ("null",)}, "no origin"),
        ({"origins": ("shop.example",)}, "no origin"),
        ({"origins": ("https://Shop.example",)}, "no origin"),
        ({"origins": ("https://shop.example/",)}, "no origin"),
        ({"origins": ("https://*",)}, "no origin"),
        ({"origins": ("https://*.example",)}, "no origin"),
        ({"origins": ("https://*.0.0.1",)}, "no origin"),
        ({"origins": ("https://shop.example:443",)}, "port"),
        ({"origins": ("*",), "credentials": True}, "credentials"),
        ({"origins": (SHOP,), "exposed_headers": ("*",), "credentials": True}, "credentials"),
        ({"origins": (SHOP,), "headers": ("x a",)}, "no name"),
        ({"origins": (SHOP,), "max_age_seconds": 86_401}, "max_age_seconds"),
    ],
)
def test_what_no_browser_would_heed_is_refused(settings: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Cors(**settings)  # type: ignore[arg-type]


def test_methods_that_the_route_has_not_are_refused() -> None:
    with pytest.raises(ValueError, match="DELETE"):
        Route(path="/", methods=ALL, service="s", cors=Cors(origins=("*",), methods=("DELETE",)))
