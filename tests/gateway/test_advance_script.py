"""The scripts that gateways run in Redis; that of exchanges does as the store of a simulation."""

import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from counterfoil.engines import RunningEngine

SCRIPTS = Path(__file__).parents[2] / "crates/gateway/src"
SECOND = 1_000_000
KEPT = 10 * SECOND
DAY = 86_400 * SECOND
SLOW = 60 * SECOND
"""More than a test can take: debts are in days, so that the time between two calls is nothing."""


@pytest.fixture
def script(engine: Callable[[str], RunningEngine]) -> Callable[..., list[int]]:
    redis = engine("redis")
    port = redis.address.removesuffix("/0").rpartition(":")[2]
    key = uuid.uuid4().hex

    def run(name: str, *given: int) -> list[int]:
        done = subprocess.run(
            [
                "redis-cli",
                "-p",
                port,
                "--eval",
                SCRIPTS / name,
                key,
                ",",
                *map(str, (KEPT, *given)),
            ],
            env={"REDISCLI_AUTH": redis.secret, "PATH": "/usr/bin:/bin:/usr/local/bin"},
            capture_output=True,
            text=True,
            check=True,
        )
        return [int(number) for number in done.stdout.split()]

    return run


@pytest.fixture
def advance(script: Callable[..., list[int]]) -> Callable[..., int]:
    def run(by: int, at_least: int, most: int = 100 * DAY) -> int:
        return script("advance.lua", by, at_least, most)[-1]

    return run


def test_a_new_key_owes_what_its_first_node_says(advance: Callable[..., int]) -> None:
    assert advance(3 * DAY, DAY) == DAY


def test_what_nodes_admit_adds_up(advance: Callable[..., int]) -> None:
    advance(DAY, DAY)
    assert advance(DAY, DAY) == pytest.approx(2 * DAY, abs=SLOW)
    assert advance(2 * DAY, -DAY) == pytest.approx(4 * DAY, abs=SLOW)


def test_the_floor_of_a_node_lifts_a_key_that_owes_less(advance: Callable[..., int]) -> None:
    advance(DAY, DAY)
    assert advance(DAY, 5 * DAY) == 5 * DAY


def test_a_debt_beyond_the_limit_is_forgiven(advance: Callable[..., int]) -> None:
    advance(DAY, DAY)
    assert advance(9 * DAY, 9 * DAY, 4 * DAY) == 4 * DAY
    assert advance(DAY, DAY) == pytest.approx(5 * DAY, abs=SLOW)


def test_what_was_paid_long_ago_owes_nothing_and_is_not_kept(advance: Callable[..., int]) -> None:
    assert advance(DAY, -KEPT) == 0
    assert advance(DAY, -DAY) == 0
    assert advance(DAY, 2 * DAY) == 2 * DAY


def test_a_strict_limit_refuses_for_no_longer_than_a_debt_is_kept(
    script: Callable[..., list[int]],
) -> None:
    """As where the clock of Redis was set back by ten days."""
    script("advance.lua", DAY, 10 * DAY, 100 * DAY)
    debt, early = script("admit.lua", SECOND, DAY, 2 * DAY)
    assert (debt, early) == (2 * DAY, DAY)
