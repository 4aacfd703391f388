"""What a service has answered and sent is kept for a time, and then no longer."""

import itertools
from collections.abc import Iterator
from contextlib import closing

import msgspec
import pytest

from counterfoil.application import Application
from counterfoil.errors import CounterfoilError
from counterfoil.events import (
    LEAST_KEEP_SECONDS,
    Command,
    Events,
    Relay,
    Reply,
    ServiceStore,
    SourceRetention,
    Topic,
    Unit,
)
from counterfoil.events.source_retention import CHUNK, LOOK_US

DAY_US = 24 * 3600 * 1_000_000


class Paid(msgspec.Struct, frozen=True):
    id: int


PAID = Topic("paid", Paid, partitions=1)


class Bank:
    """A service that pays, its relay and its retention, on one clock."""

    def __init__(self, events: Events) -> None:
        self.now_us = DAY_US
        log = events.log()
        log.declare([PAID])
        ids = itertools.count(1)
        self.service = ServiceStore(
            events.service("bank"),
            [],
            next_id=lambda: next(ids),
            clock_us=lambda: self.now_us,
        )
        self.database = events.service("bank")
        self.retention = SourceRetention(events.service("bank"), 7 * 24 * 3600, answers=True)
        self.appender = log.appender("bank", 1)
        self.relay = Relay(
            events.outbox("bank"), self.appender, lambda: self.retention.step(self.now_us)
        )

    def pay(self, *keys: str) -> list[str]:
        """The ids of payments, in the order of their keys."""

        def handle(unit: Unit) -> Reply:
            number = unit.new_id()
            unit.publish(PAID, Paid(number), key="a", event_id=number)
            return Reply(201, str(number).encode(), {})

        answers = [self.service.submit(Command(key, b"h", {}, handle)) for key in keys]
        return [answer.result(20).body.decode() for answer in answers]

    def work(self) -> None:
        """Until there is nothing left to do."""
        while self.relay.step():
            pass

    def kept(self) -> tuple[int, int]:
        """Answers and events."""
        counts = [
            self.database.execute(f"SELECT count(*) FROM {table}").fetchone()
            for table in ("idempotency", "outbox")
        ]
        return counts[0][0], counts[1][0]

    def close(self) -> None:
        for each in (self.service, self.retention, self.appender, self.database):
            each.close()


@pytest.fixture
def bank(events: Events) -> Iterator[Bank]:
    with closing(Bank(events)) as bank:
        yield bank


def test_what_is_older_is_forgotten_and_what_is_not_is_kept(bank: Bank) -> None:
    (first,) = bank.pay("first")
    bank.now_us += 5 * DAY_US
    (second,) = bank.pay("second")
    bank.work()
    assert bank.kept() == (2, 2)
    bank.now_us += 3 * DAY_US
    bank.work()
    assert bank.kept() == (1, 1)
    assert bank.pay("second") == [second], "its answer is still there"
    assert bank.pay("first") != [first], "it is done again"


def test_what_was_not_moved_yet_is_moved_first_however_old(bank: Bank) -> None:
    bank.pay("a", "b", "c")
    bank.now_us += 30 * DAY_US
    assert bank.relay.step() == 3
    assert bank.kept() == (3, 3)
    bank.work()
    assert bank.kept() == (0, 1), "the newest event stays: numbers go on from it"
    assert bank.pay("d") == ["4"]
    assert bank.relay.step() == 1


def test_much_is_forgotten_a_chunk_at_a_time_and_looked_for_now_and_then(bank: Bank) -> None:
    bank.pay(*(f"key {number}" for number in range(CHUNK + 10)))
    bank.work()
    bank.now_us += 8 * DAY_US
    (newest,) = bank.pay("newest")
    while bank.relay.step() != 2 * CHUNK:  # it moves the newest first
        assert newest
    assert bank.kept() == (11, 11)
    assert [bank.relay.step() for _ in range(3)] == [20, 0, 0]
    assert bank.kept() == (1, 1)
    bank.pay("another")
    bank.now_us += 8 * DAY_US
    bank.work()
    bank.now_us += LOOK_US - 1
    assert bank.retention.step(bank.now_us) == 0
    assert bank.kept() == (0, 1)


def test_a_service_keeps_its_answers_for_a_day_at_least() -> None:
    app = Application("shop")
    with pytest.raises(CounterfoilError, match="keep_seconds must be 86400 or more"):
        app.service("bank", schema=[], keep_seconds=3_600)
    assert app.service("bank", schema=[], keep_seconds=86_400).keep_seconds == LEAST_KEEP_SECONDS
