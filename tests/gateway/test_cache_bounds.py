"""What the cache holds at most: of memory, of one body; what is refused at start."""

import socket
import threading

import pytest
from caching import CACHED, always, fields
from upstream import LARGE, OK, Asked, chunked, gateway

from counterfoil.gateway.config import Cache, GatewayConfig, Route


def test_memory_stays_within_its_bound_under_a_scan_and_what_is_hot_stays() -> None:
    body = bytes(10_000)
    room = 1_000_000
    kept = always("cache-control: max-age=600", body=body)
    with gateway(
        kept,
        route={"cache": Cache(max_object_bytes=100_000)},
        settings={"cache_bytes": room},
    ) as (client, server, plane):
        hot = [f"/hot/{number}" for number in range(20)]

        def scan(name: str) -> None:
            for number in range(300):
                client.get(f"/{name}/{number}")
                assert number % 50 or plane.state()["cache"]["bytes"] <= room

        scan("before")
        for _ in range(10):
            for path in hot:
                client.get(path)
        scan("after")  # three times what there is room for, and nothing hot meanwhile
        state = plane.state()["cache"]
        assert room / 2 < state["bytes"] <= room
        assert state["evictions"] > 300
        before = len(server.asked)
        for path in hot:
            client.get(path)
        assert len(server.asked) - before <= 2


def test_a_body_that_is_too_large_passes_through_as_it_comes_and_is_not_kept() -> None:
    seen = threading.Event()

    def answer(asked: Asked, connection: socket.socket) -> None:
        whole = fields("cache-control: max-age=60", body=LARGE)
        if "chunked" in asked.line:
            whole = chunked(LARGE[:700_000], LARGE[700_000:]).replace(
                OK, OK + b"cache-control: max-age=60\r\n"
            )
        half = len(whole) * 3 // 4
        connection.sendall(whole[:half])
        assert seen.wait(20), "what was sent should have reached the client by now"
        connection.sendall(whole[half:])

    with gateway(answer, route=CACHED, attempt_timeout_seconds=30.0) as (client, server, plane):
        for path in ("/sized", "/chunked"):
            seen.clear()
            with client.stream("GET", path) as response:
                parts = response.iter_raw(1024)
                read = next(parts)
                seen.set()
                assert read + b"".join(parts) == LARGE
            assert client.get(path).content == LARGE
        assert len(server.asked) == 4
        assert plane.state()["cache"]["bytes"] < len(LARGE)


def test_what_is_larger_than_the_gateway_holds_is_kept_whole_or_not_at_all() -> None:
    body = LARGE[:900_000]

    def answer(asked: Asked, connection: socket.socket) -> bool:
        whole = fields("cache-control: max-age=60", body=body)
        torn = "torn" in asked.line and len(server.asked) == 1
        connection.sendall(whole[:-1] if torn else whole)
        return not torn

    with gateway(answer, route=CACHED) as (client, server, _):
        assert client.get("/torn").status_code == 502
        for _ in range(2):
            assert client.get("/torn").content == body
        assert len(server.asked) == 2


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"min_ttl_seconds": -1.0}, "times of a cache"),
        ({"collapse_wait_seconds": 61.0}, "collapse_wait_seconds"),
        ({"max_object_bytes": 0}, "max_object_bytes"),
        ({"tags_header": "a b"}, "tags_header"),
    ],
)
def test_a_cache_that_can_not_be_is_refused_with_what_to_set(
    wrong: dict[str, object], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        Cache(**wrong)  # type: ignore[arg-type]


def test_a_store_holds_at_least_one_answer() -> None:
    route = Route(path="/x", methods=("GET",), service="s", cache=Cache())
    with pytest.raises(ValueError, match="cache_bytes"):
        GatewayConfig(routes=(route,), cache_bytes=1_000_000)
