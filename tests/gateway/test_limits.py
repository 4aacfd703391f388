"""Limits of one gateway: every algorithm, every key, and what clients are told."""

import re
from collections.abc import Generator
from contextlib import contextmanager

import httpx2
import msgspec
import pytest
from upstream import Server, serving, sized

from counterfoil.gateway.config import GatewayConfig, Limit, Route
from counterfoil.gateway.data_plane import DataPlane


@contextmanager
def limited(limit: Limit, **more: object) -> Generator[tuple[httpx2.Client, Server], None, None]:
    """A client of a gateway with one limit on two routes."""
    config = GatewayConfig(
        listen="127.0.0.1:0",
        admin="127.0.0.1:0",
        tls="off",
        limits={"it": limit},
        routes=tuple(
            Route(path=path, methods=("GET",), service="s", identity=False, limits=("it",))
            for path in ("/x", "/y")
        ),
        **more,  # type: ignore[arg-type]
    )
    plane = DataPlane(config, access_log=None, admin_credential="c")
    with serving(lambda _, connection: connection.sendall(sized(b"abc"))) as server:
        plane.set_endpoints("s", [("s-1", server.address)])
        with httpx2.Client(base_url=f"http://{plane.listen}", timeout=20) as client:
            yield client, server
        plane.drain(5.0)


def window(algorithm: str, requests: int = 3, seconds: float = 3600.0, **more: object) -> Limit:
    limit = {"key": "address", "algorithm": algorithm, "requests": requests, **more}
    return msgspec.convert({**limit, "window_seconds": seconds}, Limit)


@pytest.mark.parametrize("algorithm", ["fixed_window", "sliding_counter", "sliding_log"])
def test_a_window_lets_its_requests_pass_and_says_when_to_come_back(algorithm: str) -> None:
    with limited(window(algorithm)) as (client, _):
        answers = [client.get("/x") for _ in range(4)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
        refused = answers[-1]
        assert 0 < int(refused.headers["retry-after"]) <= 2 * 3600
        assert refused.headers["ratelimit-policy"] == '"it";q=3;w=3600'
        assert re.fullmatch(r'"it";r=0;t=\d+', refused.headers["ratelimit"])
        assert "ratelimit" not in answers[0].headers


def test_a_window_that_is_over_lets_requests_pass_again() -> None:
    with limited(window("sliding_log", 2, 0.3)) as (client, _):
        assert [client.get("/x").status_code for _ in range(3)] == [200, 200, 429]
        while client.get("/x").status_code == 429:
            pass


def test_each_answer_says_what_is_left_where_that_is_asked_for() -> None:
    with limited(Limit(key="address", rate=0.01, burst=3, tell=True)) as (client, _):
        left = [client.get("/x").headers["ratelimit"] for _ in range(4)]
        assert [each.partition(";t=")[0] for each in left] == [f'"it";r={n}' for n in (2, 1, 0, 0)]
        policy = client.get("/x").headers["ratelimit-policy"]
        assert policy == '"it";q=3;w=300'


def test_a_limit_by_header_counts_each_value_and_cuts_long_ones() -> None:
    with limited(Limit(key="header:x-app", rate=0.01, burst=1)) as (client, _):

        def get(value: str) -> int:
            return client.get("/x", headers={"x-app": value}).status_code

        assert [get("a"), get("b"), get("a"), get("b")] == [200, 200, 429, 429]
        assert [client.get("/x").status_code for _ in range(2)] == [200, 429]
        assert [get("l" * 200), get("l" * 300)] == [200, 429]


def test_a_limit_by_route_is_one_account_for_each_path() -> None:
    with limited(Limit(key="route", rate=0.01, burst=1)) as (client, _):
        paths = ("/x", "/y", "/x", "/y")
        assert [client.get(path).status_code for path in paths] == [200, 200, 429, 429]


def came_by(server: Server) -> str:
    return server.asked[-1].headers["x-forwarded-for"]


def test_addresses_are_those_that_trusted_proxies_saw() -> None:
    limit = Limit(key="address", rate=0.01, burst=1)
    with limited(limit, trusted_proxies=("127.0.0.0/8", "10.0.0.0/8")) as (client, server):

        def get(*given: str) -> int:
            headers = [("x-forwarded-for", value) for value in given]
            return client.get("/x", headers=headers).status_code

        assert get("6.6.6.6, 192.0.2.1") == 200
        assert came_by(server) == "192.0.2.1, 127.0.0.1"
        assert get("7.7.7.7", "192.0.2.1, 10.0.0.1") == 429
        assert get("192.0.2.2") == 200
        assert get() == 200
        assert came_by(server) == "127.0.0.1"


def test_without_trusted_proxies_nobody_is_believed() -> None:
    with limited(Limit(key="address", rate=0.01, burst=1)) as (client, server):
        statuses = [
            client.get("/x", headers={"x-forwarded-for": f"192.0.2.{n}"}).status_code
            for n in range(2)
        ]
        assert statuses == [200, 429]
        assert came_by(server) == "127.0.0.1"


@pytest.mark.parametrize(
    ("limit", "says"),
    [
        ({"key": "tenant", "rate": 1}, "burst"),
        ({"key": "tenant", "rate": 0, "burst": 1}, "above 0"),
        ({"key": "tenant", "rate": 1, "burst": 1, "requests": 1}, "no window"),
        ({"key": "tenant", "algorithm": "sliding_log", "rate": 1, "burst": 1}, "window_seconds"),
        ({"key": "user", "rate": 1, "burst": 1}, "claim:NAME"),
    ],
)
def test_a_limit_that_can_not_be_is_refused_with_what_to_set(
    limit: dict[str, object], says: str
) -> None:
    with pytest.raises(msgspec.ValidationError, match=says):
        msgspec.convert(limit, Limit)


def test_a_network_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match=r"10\.0\.0\.0/99"):
        GatewayConfig(trusted_proxies=("10.0.0.0/99",))
