"""Strict limits: several real gateways admit no more than one would, by asking one real Redis."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, TypeVar

import pytest
from sharing import Node, gateways, load, redis_cli, until

from counterfoil.engines import RunningEngine

Found = TypeVar("Found")


def while_the_store_answers(
    attempt: Callable[[list[Node]], Found],
    number: int,
    service: str,
    redis: RunningEngine,
    **limit: Any,
) -> Found:
    """What is found by gateways with a limit of their own, if the store answered all they asked.

    On a machine that is too busy it doesn't, and the fallback decides for a moment, as it should:
    then it is another test, and this one begins again.
    """
    for _ in range(5):
        with gateways(number, service, redis, strict=True, **limit) as nodes:
            until(lambda nodes=nodes: all(node.link["connected"] for node in nodes))
            found = attempt(nodes)
            if not any(node.link["failures"] for node in nodes):
                return found
    raise AssertionError("the store never answered in time throughout")


def test_three_gateways_admit_exactly_what_one_would(service: str, redis: RunningEngine) -> None:
    def attempt(nodes: list[Node]) -> list[int]:
        start = threading.Barrier(len(nodes))

        def send(node: Node) -> list[int]:
            start.wait()
            return node.statuses(100)

        with ThreadPoolExecutor(len(nodes)) as clients:
            return [status for sent in clients.map(send, nodes) for status in sent]

    statuses = while_the_store_answers(attempt, 3, service, redis, rate=0.001, burst=100)
    assert Counter(statuses) == {200: 100, 429: 200}


def test_the_rate_holds_over_all_gateways_without_any_overshoot(
    service: str, redis: RunningEngine
) -> None:
    rate, burst = 100, 20

    def attempt(nodes: list[Node]) -> tuple[list[int], float]:
        began = time.monotonic()
        with load(nodes) as statuses:
            until(lambda: statuses.count(200) > 3 * rate)
        return statuses, time.monotonic() - began

    statuses, took = while_the_store_answers(attempt, 3, service, redis, rate=rate, burst=burst)
    assert statuses.count(200) <= rate * took + burst
    assert set(statuses) == {200, 429}


def test_many_requests_at_once_are_asked_about_together(service: str, redis: RunningEngine) -> None:
    def attempt(nodes: list[Node]) -> list[int]:
        clients = [Node(nodes[0].plane) for _ in range(16)]
        with ThreadPoolExecutor(len(clients)) as senders:
            sent = senders.map(lambda client: client.statuses(25), clients)
            return [status for each in sent for status in each]

    statuses = while_the_store_answers(attempt, 1, service, redis, rate=0.001, burst=300)
    assert Counter(statuses) == {200: 300, 429: 100}


def test_a_key_that_is_known_to_be_in_debt_costs_the_store_nothing(
    service: str, redis: RunningEngine
) -> None:
    with gateways(1, service, redis, rate=0.001, burst=1, strict=True) as (node,):
        until(lambda: node.link["connected"])
        assert node.statuses(2) == [200, 429]

        def scripts() -> int:
            """How many scripts the store has run."""
            (said,) = (
                line
                for line in redis_cli(redis, "info", "commandstats").splitlines()
                if line.startswith("cmdstat_evalsha:")
            )
            return int(said.partition("calls=")[2].partition(",")[0])

        before = scripts()
        assert node.statuses(100) == [429] * 100
        assert scripts() == before


@pytest.mark.parametrize(("fallback", "meanwhile"), [("local", {200, 429}), ("refuse", {503})])
def test_while_the_store_is_away_nobody_waits_and_the_fallback_decides(
    service: str, redis: RunningEngine, fallback: Literal["local", "refuse"], meanwhile: set[int]
) -> None:
    with gateways(2, service, redis, rate=200, burst=5, fallback=fallback, strict=True) as nodes:
        until(lambda: all(node.link["connected"] for node in nodes))
        with load(nodes) as statuses:
            until(lambda: 200 in statuses and 429 in statuses)
            redis.kill()
            try:
                until(lambda: not any(node.link["connected"] for node in nodes))
                time_of_loss = len(statuses) + len(nodes)  # those under way may be of before
                until(lambda: len(statuses) > time_of_loss + 200)
                seen = set(statuses[time_of_loss:])
            finally:
                redis.start()
            until(lambda: all(node.link["connected"] for node in nodes))
            returned = len(statuses)
            until(lambda: {200, 429} <= set(statuses[returned:]))
        assert seen == meanwhile


def test_a_store_that_hangs_is_waited_for_half_a_second_and_no_more(
    service: str, redis: RunningEngine
) -> None:
    with gateways(1, service, redis, rate=0.001, burst=5, strict=True) as (node,):
        until(lambda: node.link["connected"])
        assert node.get().status == 200
        redis.pause()
        try:
            assert node.statuses(6) == [200] * 4 + [429] * 2, "what the store knew is known here"
            until(lambda: not node.link["connected"])
            began = time.monotonic()
            node.statuses(20)
            assert time.monotonic() - began < 5, (
                "nobody asks: twenty would have waited for ten seconds"
            )
        finally:
            redis.resume()
        until(lambda: node.link["connected"])
