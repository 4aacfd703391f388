"""What a service has answered and sent is kept for a time, and then no longer."""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import closing

import msgspec
import pytest

from counterfoil.application import Application
from counterfoil.errors import CounterfoilError
from counterfoil.events import (
    LEAST_KEEP_SECONDS,
    Command,
    Events,
    Message,
    Relay,
    Reply,
    ServiceStore,
    SourceRetention,
    Topic,
    Unit,
)
from counterfoil.events.database import Cursor
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
        self.outbox = events.outbox("bank")
        self.relay = Relay(
            self.outbox, self.appender, lambda moved: self.retention.step(self.now_us, moved)
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
    bank.work()
    assert bank.kept() == (0, 1), "the newest event stays: numbers go on from it"
    assert bank.pay("d") == ["4"]
    assert bank.relay.step() == 1


def test_much_is_forgotten_a_chunk_at_a_time_and_looked_for_now_and_then(bank: Bank) -> None:
    bank.pay(*(f"key {number}" for number in range(CHUNK + 10)))
    bank.work()
    bank.now_us += 8 * DAY_US
    (newest,) = bank.pay("newest")
    assert bank.relay.step() == 1, f"it moves {newest}, and forgets a chunk beside it"
    assert bank.kept() == (11, 11)
    assert [bank.relay.step() for _ in range(3)] == [20, 0, 0]
    assert bank.kept() == (1, 1)
    bank.pay("another")
    bank.now_us += 8 * DAY_US
    bank.work()
    bank.now_us += LOOK_US - 1
    assert bank.relay.step() == 0
    assert bank.kept() == (0, 1)


def test_what_is_committed_by_a_wrong_clock_is_moved_before_it_is_forgotten(
    bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank.pay("first")
    bank.work()
    right_us, read = bank.now_us + 30 * DAY_US, bank.outbox.read_after

    def pay_in_between(position: int, limit: int) -> list[tuple[int, Message]]:
        found = read(position, limit)
        if not found:
            bank.pay("second", "third")  # an instance whose clock is a month behind the relay's
            bank.now_us = right_us
        return found

    with monkeypatch.context() as patch:
        patch.setattr(bank.outbox, "read_after", pay_in_between)
        assert bank.relay.step() > 0, "there is something to forget"
    left = bank.database.execute("SELECT event_id FROM outbox ORDER BY seq").fetchall()
    assert [number for (number,) in left] == [2, 3], "only what was moved is forgotten"
    assert bank.relay.step() == 2


def test_a_source_that_never_rests_keeps_nothing_for_ever(bank: Bank) -> None:
    for day in range(20):
        bank.now_us += DAY_US
        bank.pay(f"day {day}")
        assert bank.relay.step() == 1
    assert bank.kept() == (8, 8)


def test_what_grows_old_row_by_row_is_forgotten_many_at_a_time(bank: Bank) -> None:
    for number in range(20):
        bank.pay(f"key {number}")
        bank.now_us += 1_000
    bank.work()
    bank.now_us += 7 * DAY_US + LOOK_US
    began_us = bank.now_us - 20_000
    bank.now_us = began_us
    forgetting = 0
    for _ in range(40):
        bank.now_us += 1_000
        forgetting += bank.relay.step() > 0
    assert forgetting == 1, "each is a transaction for which writers wait"
    bank.now_us += LOOK_US
    bank.work()
    assert bank.kept() == (0, 1)


def test_an_answer_that_is_forgotten_as_it_is_looked_up_is_given_anew(
    bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank.pay("key")
    database = bank.service._database
    execute = database.execute

    def forget_in_between(sql: str, parameters: Sequence[object] = ()) -> Cursor:
        if sql.startswith("SELECT request_hash"):
            monkeypatch.undo()
            execute("DELETE FROM idempotency")
        return execute(sql, parameters)

    monkeypatch.setattr(database, "execute", forget_in_between)
    assert bank.pay("key") == ["2"]


def test_a_service_keeps_its_answers_for_a_day_at_least() -> None:
    app = Application("shop")
    with pytest.raises(CounterfoilError, match="keep_seconds must be 86400 or more"):
        app.service("bank", schema=[], keep_seconds=3_600)
    assert app.service("bank", schema=[], keep_seconds=86_400).keep_seconds == LEAST_KEEP_SECONDS
