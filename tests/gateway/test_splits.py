"""A route's requests divided between two versions of a service."""

import json
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx2
import msgspec
import pytest
from upstream import OK, Asked, Server, serving

from counterfoil.gateway.api_keys import new_api_key
from counterfoil.gateway.config import Cache, GatewayConfig, Route
from counterfoil.gateway.credentials import ApiKey
from counterfoil.gateway.data_plane import DataPlane, GatewayError
from counterfoil.gateway.services import Upstream
from counterfoil.gateway.splitting import Split

KEYS = {name: new_api_key(name) for name in ("aurora", "borealis", "cassini", "delta")}
OPEN = {"methods": ("GET", "POST"), "identity": False}
CLIENTS = [f"client-{number}" for number in range(120)]


def split(old: int, new: int, by: str | None = "header:x-client", **more: str) -> Split:
    return Split(weights={"old": old, "new": new}, by=by, **more)  # type: ignore[arg-type]


ROUTES = (
    Route(path="/sticky", split=split(80, 20), **OPEN),  # type: ignore[arg-type]
    Route(path="/sticky-too", split=split(4, 1), **OPEN),  # type: ignore[arg-type]
    Route(path="/weighed", split=split(90, 10), **OPEN),  # type: ignore[arg-type]
    Route(path="/random", split=split(1, 1, by=None), **OPEN),  # type: ignore[arg-type]
    Route(path="/tested", split=split(1, 0, header="X-Version"), **OPEN),  # type: ignore[arg-type]
    Route(path="/tenants", methods=("GET",), split=split(1, 1, by="tenant")),
    Route(path="/kept/*", split=split(1, 0, header="x-version"), cache=Cache(), **OPEN),  # type: ignore[arg-type]
    Route(path="/new", service="new", **OPEN),  # type: ignore[arg-type]
)
CONFIG = GatewayConfig(
    listen="127.0.0.1:0",
    admin="127.0.0.1:0",
    tls="off",
    api_keys={name: ApiKey(sha256=digest, tenant=name) for name, (_, digest) in KEYS.items()},
    routes=ROUTES,
    services={"new": Upstream(concurrency=1, queue=0, attempts=3, breaker_failures=1_000)},
)


class Version:
    """One version of a service: says which it is, and does what it is told."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.fails = False
        self.holds = threading.Event()
        self.held = threading.Semaphore(0)
        self.holds.set()

    def __call__(self, _: Asked, connection: socket.socket) -> None:
        self.held.release()
        self.holds.wait(timeout=20)
        body = self.name.encode()
        status = b"HTTP/1.1 503 Service Unavailable\r\n" if self.fails else OK
        head = b"cache-control: max-age=60\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)
        connection.sendall(status + head)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("splits") / "access.jsonl"


@pytest.fixture(scope="module")
def versions() -> Iterator[dict[str, tuple[Version, Server]]]:
    old, new = Version("old"), Version("new")
    with serving(old) as old_server, serving(new) as new_server:
        yield {"old": (old, old_server), "new": (new, new_server)}


@pytest.fixture(scope="module")
def plane(versions: dict[str, tuple[Version, Server]], log: Path) -> Iterator[DataPlane]:
    plane = DataPlane(CONFIG, access_log=log, admin_credential="c")
    for name, (_, server) in versions.items():
        plane.set_endpoints(name, [(f"{name}-1", server.address)])
    yield plane
    plane.drain(1.0)


@pytest.fixture
def client(plane: DataPlane) -> Iterator[httpx2.Client]:
    plane.reload(CONFIG)
    with httpx2.Client(base_url=f"http://{plane.listen}", timeout=20) as client:
        yield client


def sides(client: httpx2.Client, path: str) -> dict[str, str]:
    """Which version each of the clients gets."""
    return {name: client.get(path, headers={"x-client": name}).text for name in CLIENTS}


def test_a_client_stays_with_its_version_and_versions_get_their_part(client: httpx2.Client) -> None:
    first = sides(client, "/sticky")
    assert first == sides(client, "/sticky")
    assert first == sides(client, "/sticky-too"), "another route with the same weights"
    assert 10 <= Counter(first.values())["new"] <= 40, "of 120, with a weight of 20 beside 80"


def test_a_weight_that_is_raised_moves_clients_to_that_version_and_lowered_back(
    client: httpx2.Client, plane: DataPlane
) -> None:
    on_new = [set[str]()]
    for weight in (0, 10, 90, 810):  # beside 90
        plane.weigh("/weighed", {"new": weight})
        found = {name for name, side in sides(client, "/weighed").items() if side == "new"}
        assert found >= on_new[-1]
        on_new.append(found)
    assert [len(each) for each in on_new[:2]] == [0, 0]
    assert 3 <= len(on_new[2]) <= 25
    assert 42 <= len(on_new[3]) <= 78
    assert 96 <= len(on_new[4]) < 120
    plane.weigh("/weighed", {"new": 90})
    assert {name for name, side in sides(client, "/weighed").items() if side == "new"} == on_new[3]
    plane.weigh("/weighed", None)
    assert {name for name, side in sides(client, "/weighed").items() if side == "new"} == on_new[2]


def test_without_a_key_each_request_goes_its_own_way(client: httpx2.Client) -> None:
    assert {client.get("/random").text for _ in range(60)} == {"old", "new"}
    assert {client.get("/sticky").text for _ in range(200)} == {"old", "new"}, "it has no key"


def test_tenants_stay_with_their_version_wherever_they_come_from(client: httpx2.Client) -> None:
    def side(tenant: str) -> str:
        return client.get("/tenants", headers={"x-api-key": KEYS[tenant][0]}).text

    assert {tenant: side(tenant) for tenant in KEYS} == {
        "aurora": "old",
        "borealis": "new",
        "cassini": "new",
        "delta": "old",
    }, "as in any other gateway, in this version and in later ones"


def test_testers_name_their_version_in_the_header_that_is_configured(
    client: httpx2.Client,
) -> None:
    assert client.get("/tested").text == "old"
    assert client.get("/tested", headers={"x-version": "new"}).text == "new", "its weight is 0"
    for other in ("next", "New", ""):
        assert client.get("/tested", headers={"x-version": other}).text == "old"
    named = {
        client.get("/sticky", headers={"x-version": "new", "x-client": name}).text
        for name in CLIENTS[:40]
    }
    assert "old" in named, "no header is configured there"


def test_log_metrics_and_state_say_which_version_a_request_went_to(
    client: httpx2.Client, plane: DataPlane, log: Path
) -> None:
    before = len(log.read_text().splitlines())
    client.get("/tested", headers={"x-version": "new"})
    client.get("/tenants")
    stubs = [json.loads(line) for line in log.read_text().splitlines()[before:]]
    assert [(stub["service"], stub["status"]) for stub in stubs] == [("new", 200), ("", 401)]
    assert stubs[0]["instance"] == "new-1"
    (state,) = [each for each in plane.state()["splits"] if each["path"] == "/tested"]
    assert (state["by"], state["header"]) == ("header:x-client", "X-Version")
    new, old = state["services"]
    assert (new["service"], new["weight"], old["service"], old["weight"]) == ("new", 0, "old", 1)
    assert new["answers"][1] >= 1
    assert new["latency_us"]["p50"] > 0
    metrics = httpx2.get(
        f"http://{plane.admin}/metrics", headers={"authorization": "Bearer c"}
    ).text
    of_new = 'counterfoil_gateway_split_requests_total{route="/tested",service="new",status="2xx"} '
    assert f"{of_new}{new['answers'][1]}\n" in metrics
    assert 'split_request_duration_seconds_count{route="/tested",service="new"}' in metrics
    assert 'counterfoil_gateway_split_weight{route="/sticky",service="new"} 20\n' in metrics


def test_retries_and_breakers_are_those_of_the_version_that_was_chosen(
    client: httpx2.Client, plane: DataPlane, versions: dict[str, tuple[Version, Server]]
) -> None:
    (new, new_server), (_, old_server) = versions["new"], versions["old"]
    asked = len(new_server.asked), len(old_server.asked)
    new.fails = True
    failed = client.get("/tested", headers={"x-version": "new"})
    new.fails = False
    assert (failed.status_code, failed.text) == (503, "new")
    assert (len(new_server.asked), len(old_server.asked)) == (asked[0] + 3, asked[1])
    plane.hold_breaker("new", "new-1", "open")
    try:
        assert client.get("/tested", headers={"x-version": "new"}).status_code == 503
        assert client.get("/tested").text == "old"
    finally:
        plane.hold_breaker("new", "new-1", "auto")
    assert client.get("/tested", headers={"x-version": "new"}).text == "new"


def test_a_version_that_is_full_takes_no_places_of_the_other(
    client: httpx2.Client, plane: DataPlane, versions: dict[str, tuple[Version, Server]]
) -> None:
    new, _ = versions["new"]
    while new.held.acquire(blocking=False):
        pass
    new.holds.clear()
    url, headers = f"http://{plane.listen}/tested", {"x-version": "new"}
    waiting = threading.Thread(target=httpx2.get, args=(url,), kwargs={"headers": headers})
    waiting.start()
    try:
        assert new.held.acquire(timeout=20)
        assert client.get("/tested", headers=headers).status_code == 503
        assert client.get("/tested").text == "old"
    finally:
        new.holds.set()
        waiting.join()


def test_the_cache_keeps_the_answers_of_versions_apart_and_a_purge_reaches_both(
    client: httpx2.Client, plane: DataPlane
) -> None:
    def of(version: str) -> tuple[str, str]:
        answer = client.get("/kept/1", headers={"x-version": version})
        return answer.text, "hit" if "; hit" in answer.headers["cache-status"] else "miss"

    plane.purge(everything=True)
    assert [of("old"), of("new")] == [("old", "miss"), ("new", "miss")]
    assert [of("old"), of("new")] == [("old", "hit"), ("new", "hit")]
    plane.purge(urls=["/kept/1"])
    assert [of("old"), of("new")] == [("old", "miss"), ("new", "miss")]


def test_operators_change_weights_without_a_reload_and_a_reload_leaves_them_alone(
    client: httpx2.Client, plane: DataPlane
) -> None:
    def post(document: object) -> httpx2.Response:
        headers = {"authorization": "Bearer c"}
        return httpx2.post(f"http://{plane.admin}/splits", json=document, headers=headers)

    def weights(path: str = "/weighed") -> list[int]:
        (found,) = [each for each in plane.state()["splits"] if each["path"] == path]
        return [service["weight"] for service in found["services"]]

    assert post({"path": "/weighed", "weights": {"new": 25}}).status_code == 200
    assert weights() == [25, 90]
    changed = msgspec.structs.replace(CONFIG, request_body_limit=5)
    plane.reload(changed)
    assert weights() == [25, 90], "the split is configured as before"
    routes = (Route(path="/weighed", split=split(1, 2), **OPEN), *ROUTES[3:])  # type: ignore[arg-type]
    plane.reload(msgspec.structs.replace(CONFIG, routes=routes))
    assert weights() == [2, 1], "the configuration changed it"
    plane.reload(CONFIG)
    assert weights() == [10, 90]
    for document, said in (
        ({"path": "/weighed", "weights": {"next": 1}}, "no route /weighed has a split for next"),
        ({"path": "/new", "weights": {}}, "no route /new has a split"),
        ({"path": "/weighed", "weights": {"new": 0, "old": 0}}, "no service has a weight above 0"),
        ({"path": "/weighed", "weights": {"new": 1_000_001}}, "weights are 0 to 1000000"),
        ({"path": "/weighed"}, "missing field `weights`"),
        ({"path": "/weighed", "weights": {"new": -1}}, "invalid value"),
    ):
        refused = post(document)
        assert refused.status_code == 400
        assert said in refused.json()["detail"]
    assert weights() == [10, 90]
    with pytest.raises(GatewayError, match="no route /other has a split"):
        plane.weigh("/other", None)


def test_a_change_that_one_split_of_a_path_refuses_changes_none() -> None:
    routes = (
        Route(path="/a", methods=("GET",), identity=False, split=split(1, 1)),
        Route(path="/a", methods=("POST",), identity=False, split=split(0, 1)),
    )
    config = msgspec.structs.replace(CONFIG, routes=routes)
    plane = DataPlane(config, access_log=None, admin_credential="c", opened=False)
    before = plane.state()["splits"]
    with pytest.raises(GatewayError, match="no service has a weight above 0"):
        plane.weigh("/a", {"new": 0})
    assert plane.state()["splits"] == before


def test_a_version_without_a_weight_keeps_no_gateway_from_starting() -> None:
    routes = (Route(path="/a", split=split(1, 0), **OPEN),)  # type: ignore[arg-type]
    config = msgspec.structs.replace(CONFIG, routes=routes)
    plane = DataPlane(config, access_log=None, admin_credential="c", opened=False)
    assert plane.await_instances(0, threading.Event()) == ["old"]
    plane.weigh("/a", {"new": 1})
    assert plane.await_instances(0, threading.Event()) == ["new", "old"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"weights": {"a": 1}}, "between 2 to 16 services"),
        ({"weights": {"a": 0, "b": 0}}, "a weight above 0"),
        ({"weights": {"a": 1, "b": -1}}, "weights are 0 to 1,000,000"),
        ({"weights": {"a": 1, "b": 1_000_001}}, "weights are 0 to 1,000,000"),
        ({"weights": {"a": 1, "b": 1}, "by": "route"}, "use tenant, address"),
        ({"weights": {"a": 1, "b": 1}, "header": "a b"}, "no name of a header"),
    ],
)
def test_a_split_that_makes_no_sense_is_refused(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Split(**settings)  # type: ignore[arg-type]


def test_a_route_has_a_service_or_a_split_and_a_tenant_must_be_proved() -> None:
    with pytest.raises(ValueError, match="name its service among the weights"):
        Route(path="/a", service="s", split=split(1, 1), **OPEN)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="split by tenant, which nobody proves there"):
        Route(path="/a", split=split(1, 1, by="tenant"), **OPEN)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="leads nowhere: set its service, a split, or a redirect"):
        Route(path="/a", **OPEN)  # type: ignore[arg-type]
