"""Whoever dies at whatever step: an order is complete or fully taken back, in both styles."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from counterfoil.engines import RunningEngine
from counterfoil.events import (
    EmbeddedEvents,
    Events,
    Message,
    Sagas,
    rebuilt_balances,
    trial_balance,
)
from events import order_saga
from events.order_saga import ORDERS, PLACED, STOCK, Order

PROGRAM = Path(order_saga.__file__)
FAILS = ("", "reserve", "charge", "ship")
AMOUNTS = {1: 100, 2: 250, 3: 999, 4: 1_500}
POINTS = (
    "saga.do.reserve",
    "saga.do.charge",
    "saga.do.ship",
    "saga.undo.charge",
    "saga.undo.reserve",
    "saga.before-commit",
    "saga.after-commit",
    "pipeline.before-commit",
    "pipeline.after-commit",
)
LIVES = 200


def place_orders(events: Events) -> None:
    log = events.log()
    log.declare(order_saga.ALL)
    appender = log.appender("clients", 1)
    messages = [
        Message(number, topic.name, f"c{number}", topic.encode(order), {}, 1)
        for topic in (ORDERS, PLACED)
        for number, fails in enumerate(FAILS, start=1)
        for order in [Order(number, f"c{number}", AMOUNTS[number], fails)]
    ]
    appender.append(messages, 1)
    appender.close()


def arm(folder: Path, *points: str) -> None:
    folder.mkdir(exist_ok=True)
    for point in points:
        (folder / point).write_text("kill")


def live(folder: Path, token: int, where: list[str], secret: str | None = None) -> bool:
    """One life of the program; True if it ended by itself."""
    environment = {**os.environ, "COUNTERFOIL_FAULTS": str(folder)}
    if secret:
        environment["PGPASSWORD"] = secret
    ended = subprocess.run(
        [sys.executable, PROGRAM, str(len(FAILS)), str(token), *where],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode in (0, -signal.SIGKILL), ended.stderr
    return ended.returncode == 0


def check(events: Events) -> None:
    """Every effect of a complete order is there once; of the others nothing is left."""
    store = events.pipelines()
    sagas = Sagas(store)
    found = {(each.saga, each.id): each.status for each in sagas.newest()}
    # In the dance a reservation can't be refused: that order is complete.
    assert found == {
        ("order", 1): "completed",
        ("order", 2): "compensated",
        ("order", 3): "compensated",
        ("order", 4): "compensated",
        ("dance", 1): "completed",
        ("dance", 2): "completed",
        ("dance", 3): "compensated",
        ("dance", 4): "compensated",
    }
    state = dict(
        store.database.execute("SELECT key, value FROM state WHERE pipeline = 'saga.order'")
    )
    assert state == {"stock": str(STOCK - 1).encode(), "shipped/1": b"1"}
    balances = rebuilt_balances(store.database)
    kept = {account: credits - debits for (account, _), (debits, credits) in balances.items()}
    assert kept == {"c1": -AMOUNTS[1], "c4": 0, "shop": AMOUNTS[1]}
    debits, credits = trial_balance(store.database)["USD"]
    assert debits == credits
    released = store.database.execute("SELECT key FROM state WHERE pipeline = 'let-go'").fetchall()
    assert sorted(released) == [("released/3",), ("released/4",)]
    for number in (1, 2, 3, 4):
        for each in sagas.show(number):
            done = [(line.step, line.direction) for line in each.timeline if line.outcome == "done"]
            assert len(done) == len(set(done)), each


def test_a_saga_is_whole_though_everybody_dies_once_at_every_point(
    events: Events, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    place_orders(events)
    secret = None
    if isinstance(events, EmbeddedEvents):
        where = ["embedded", str(events._folder)]
    else:
        engine = request.getfixturevalue("engine")
        kafka: RunningEngine = engine("kafka")
        postgres: RunningEngine = engine("postgres")
        where = ["kafka", kafka.address, postgres.address, events._application]  # type: ignore[attr-defined]
        secret = postgres.secret
    folder = tmp_path / "faults"
    arm(folder, *POINTS)
    lives = 1
    while not live(folder, lives, where, secret):
        lives += 1
        assert lives < LIVES
    assert not [point for point in POINTS if (folder / point).exists()]
    assert lives == len(POINTS) + 1
    check(events)


def test_a_saga_is_whole_though_its_coordinator_dies_before_and_after_each_commit(
    embedded: EmbeddedEvents, tmp_path: Path
) -> None:
    place_orders(embedded)
    folder = tmp_path / "faults"
    lives = 0
    ended = False
    while not ended:
        arm(folder, ("saga.before-commit", "saga.after-commit")[lives % 2])
        lives += 1
        ended = live(folder, lives, ["embedded", str(embedded._folder)])
        assert lives < LIVES
    assert lives > 2 * 5, "each commit of the longest order was struck"
    check(embedded)
