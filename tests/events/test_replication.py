"""The outbox read from PostgreSQL's log: in commit order, each event once, over and back again."""

import itertools
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing

import msgspec
import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterfoil.engines import RunningEngine
from counterfoil.events import (
    Database,
    EventsError,
    Fenced,
    KafkaEvents,
    Message,
    OutboxReader,
    Relay,
    StoreUnavailable,
    Topic,
)
from counterfoil.events import outbox as outboxes
from counterfoil.events.replication import Slot
from counterfoil.events.replication.outbox import IN_LOG
from counterfoil.events.replication.pgoutput import Decoder, Transaction

PATIENCE_SECONDS = 20.0


class Paid(msgspec.Struct, frozen=True):
    id: int


TOPIC = Topic("paid", Paid, partitions=2)


class Bank:
    """A source of its own; remembers what is to be closed, and drops the slot at the end."""

    def __init__(self, postgres: RunningEngine, kafka: str = "") -> None:
        self.postgres = postgres
        self.application = f"Test-{uuid.uuid4().hex[:8]}"
        self._kafka = kafka
        self._opened: list[Database | OutboxReader] = []
        self._ids = itertools.count(1)
        self.database = self.writer()
        self.database.create([outboxes.SCHEMA])
        self.slot = Slot(postgres.address, postgres.secret, f"{self.application}.bank")

    def events(self, outbox_from: str = "log") -> KafkaEvents:
        secret = self.postgres.secret
        return KafkaEvents(
            self._kafka,
            self.postgres.address,
            secret,
            self.application,
            outbox_from=outbox_from,  # type: ignore[arg-type]
        )

    def writer(self, outbox_from: str = "log") -> Database:
        self._opened.append(self.events(outbox_from).service("bank"))
        return self._opened[-1]  # type: ignore[return-value]

    def reader(self, outbox_from: str = "log") -> OutboxReader:
        self._opened.append(self.events(outbox_from).outbox("bank"))
        return self._opened[-1]  # type: ignore[return-value]

    def pay(self, number: int = 1, database: Database | None = None) -> list[int]:
        """Leave some events in one transaction."""
        database = database or self.database
        ids = [next(self._ids) for _ in range(number)]
        with database.transaction():
            outboxes.insert(database, map(message, ids))
        return ids

    def close(self) -> None:
        for each in self._opened:
            each.close()
        self.slot.drop()

    def admin(self, sql: str, *parameters: object) -> list[tuple[object, ...]]:
        with psycopg.connect(self.postgres.address, password=self.postgres.secret) as connection:
            connection.autocommit = True
            found = connection.execute(sql, parameters)  # type: ignore[arg-type]
            return found.fetchall() if found.description else []


def message(number: int) -> Message:
    value = f'{{"id":{number}}}'.encode() + b"\x00\xff"
    return Message(number, "paid", f"käse{number % 3}", value, {"traceparent": "ü"}, number)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def take(reader: OutboxReader, position: int, number: int) -> tuple[list[Message], int]:
    """The next `number` events, taken over as they come; returns the position after them."""
    found: list[Message] = []

    def look() -> bool:
        nonlocal position
        for end, each in reader.read_after(position, 100):
            position = end
            found.append(each)
        return len(found) >= number

    until(look)
    assert reader.read_after(position, 100) == []
    return found, position


def ids(messages: list[Message]) -> list[int]:
    return [each.event_id for each in messages]


@pytest.fixture
def bank(engine: Callable[[str], RunningEngine]) -> Iterator[Bank]:
    with closing(Bank(engine("postgres"))) as made:
        yield made


def test_an_event_comes_as_it_was_written(bank: Bank) -> None:
    reader = bank.reader()
    assert reader.read_after(0, 10) == []
    (number,) = bank.pay()
    found, position = take(reader, 0, 1)
    assert found == [message(number)]
    assert position > IN_LOG


def test_a_column_that_somebody_has_added_changes_nothing(bank: Bank) -> None:
    reader = bank.reader()
    reader.read_after(0, 10)
    bank.pay()
    schema = f'"{bank.application}.bank"'
    bank.admin(f"ALTER TABLE {schema}.outbox ADD COLUMN at TIMESTAMPTZ DEFAULT now()")
    bank.pay()
    found, position = take(reader, 0, 2)
    assert found == [message(1), message(2)]
    bank.admin(f"ALTER TABLE {schema}.outbox DROP COLUMN at")
    bank.pay()
    assert take(reader, position, 1)[0] == [message(3)]


def test_a_transaction_comes_whole_and_one_that_is_rolled_back_never(bank: Bank) -> None:
    reader = bank.reader()
    reader.read_after(0, 10)
    with pytest.raises(ZeroDivisionError), bank.database.transaction():
        bank.pay(3)
        raise ZeroDivisionError
    large = bank.pay(250)
    last = bank.pay(2)
    until(lambda: len(reader.read_after(0, 10)) > 0)
    portion = reader.read_after(0, 10)
    assert ids([each for _, each in portion]) == large, "more than the limit: it can't be parted"
    assert len({position for position, _ in portion}) == 1
    assert ids(take(reader, portion[-1][0], 2)[0]) == last


def test_events_come_in_the_order_of_commits_and_writers_do_not_wait(bank: Bank) -> None:
    reader, other = bank.reader(), bank.writer()
    reader.read_after(0, 10)
    with bank.database.transaction():
        late = bank.pay()
        early = bank.pay(database=other)  # would wait for the other's commit with a table
    assert ids(take(reader, 0, 2)[0]) == early + late


def test_what_was_not_appended_is_given_again_and_what_was_is_not(bank: Bank) -> None:
    reader = bank.reader()
    reader.read_after(0, 10)
    first = bank.pay(3)
    until(lambda: ids([each for _, each in reader.read_after(0, 10)]) == first)
    assert ids([each for _, each in reader.read_after(0, 10)]) == first
    found, position = take(reader, 0, 3)
    assert ids(found) == first
    second = bank.pay()
    assert ids(take(bank.reader(), position, 1)[0]) == second, "a new term, and the old one's slot"


def test_a_reader_whose_slot_was_taken_reads_nothing_until_it_takes_it_back(bank: Bank) -> None:
    old, new = bank.reader(), bank.reader()
    old.read_after(0, 10)
    new.read_after(0, 10)
    (number,) = bank.pay()
    assert ids(take(new, 0, 1)[0]) == [number]
    with pytest.raises(StoreUnavailable, match="terminating connection"):
        until(lambda: bool(old.read_after(0, 10)))


def test_a_relay_whose_term_ended_is_fenced(engine: Callable[[str], RunningEngine]) -> None:
    with closing(Bank(engine("postgres"), engine("kafka").address)) as bank:
        log = bank.events().log()
        log.declare([TOPIC])
        old = Relay(bank.reader(), log.appender("bank", 1))
        old.step()
        first = bank.pay(3)
        new = Relay(bank.reader(), log.appender("bank", 2))
        moved = 0

        def move() -> bool:
            nonlocal moved
            moved += new.step()
            return moved == 3

        until(move)

        def fenced() -> bool:
            try:
                old.step()
            except Fenced:
                return True
            except StoreUnavailable:
                pass  # its stream was cut; the next one begins before what the new one has moved
            return False

        until(fenced)
        second = bank.pay()
        newer = Relay(bank.reader(), log.appender("bank", 3))
        until(lambda: bool(newer.step()))
        found: list[int] = []
        with closing(log.reader([TOPIC], lambda _: {})) as reader:

            def read() -> bool:
                found.extend(each.event_id for batch in reader.fetch(9) for each in batch.records)
                return len(found) >= 4

            until(read)
        assert sorted(found) == first + second


def test_an_application_goes_over_from_the_table_and_back(bank: Bank) -> None:
    """Each time with events that were not moved yet, and with a term that ends on the way."""
    old = bank.writer("table")
    position, moved = 0, list[int]()
    in_table = bank.pay(3, old)
    found, position = take(bank.reader("table"), position, 3)
    moved += ids(found)
    waiting = bank.pay(2, old)
    assert position < IN_LOG
    cut_off = bank.reader()
    assert ids([each for _, each in cut_off.read_after(position, 1)]) == waiting[:1]
    in_log = bank.pay(2)
    reader = bank.reader()
    found, position = take(reader, position, 4)
    moved += ids(found)
    later = bank.pay(2)
    found, position = take(reader, position, 2)
    moved += ids(found)
    assert position > IN_LOG
    waiting_in_log = bank.pay(3)
    back = bank.reader("table")
    back.read_after(position, 10)
    in_table_again = bank.pay(2, old)
    found, position = take(back, position, 5)
    moved += ids(found)
    assert position < IN_LOG
    assert moved == sorted(moved)
    assert moved == in_table + waiting + in_log + later + waiting_in_log + in_table_again
    assert not bank.slot.exists(), "nothing keeps the log for a reader that does not come"


def test_back_in_the_table_a_term_that_ends_early_loses_nothing(bank: Bank) -> None:
    reader, old = bank.reader(), bank.writer("table")
    reader.read_after(0, 10)
    bank.pay()
    _, position = take(reader, 0, 1)
    first = bank.pay(2)
    cut_off = bank.reader("table")
    until(lambda: ids([each for _, each in cut_off.read_after(position, 10)]) == first)
    second = bank.pay(2, old)
    cut_off.close()
    found, position = take(bank.reader("table"), position, 4)
    assert ids(found) == first + second


def test_many_writers_while_readers_change_lose_and_double_nothing(bank: Bank) -> None:
    first = bank.reader()
    first.read_after(0, 10)
    writers = [bank.writer() for _ in range(4)]

    def write(database: Database) -> None:
        for _ in range(60):
            bank.pay(database=database)

    writing = [threading.Thread(target=write, args=(each,)) for each in writers]
    for each in writing:
        each.start()
    position, found = 0, list[int]()
    while len(found) < 240:
        reader = bank.reader()
        deadline = time.monotonic() + 0.1
        while time.monotonic() < deadline:
            for end, each in reader.read_after(position, 20):
                position = end
                found.append(each.event_id)
        reader.close()
    for each in writing:
        each.join()
    assert sorted(found) == list(range(1, 241))


def test_an_idle_source_does_not_keep_the_servers_log(bank: Bank) -> None:
    reader = bank.reader()
    reader.read_after(0, 10)
    (before,) = bank.admin("SELECT pg_current_wal_insert_lsn()")
    other = bank.events().service("other")
    other.create([outboxes.SCHEMA])
    with closing(other), other.transaction():
        outboxes.insert(other, [message(number) for number in range(100)])

    def forgotten() -> bool:
        assert reader.read_after(0, 10) == []
        sql = "SELECT confirmed_flush_lsn > %s FROM pg_replication_slots WHERE slot_name = %s"
        return bank.admin(sql, before[0], bank.slot.readable()) == [(True,)]

    until(forgotten)


def test_a_slot_that_is_gone_is_an_error_and_not_a_gap(bank: Bank) -> None:
    reader = bank.reader()
    reader.read_after(0, 10)
    bank.pay()
    _, position = take(reader, 0, 1)
    reader.close()
    bank.slot.free()
    name = bank.slot.readable()
    bank.admin("SELECT pg_drop_replication_slot(%s)", name)
    bank.pay()
    reader = bank.reader()
    for _ in range(2):
        with pytest.raises(EventsError, match=f"{name} is gone"):
            reader.read_after(position, 10)
    bank.admin("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", name)
    assert reader.read_after(position, 10) == []
    left_again = bank.pay()
    assert ids(take(reader, position, 1)[0]) == left_again


def test_a_slot_whose_log_was_removed_is_an_error_and_not_a_gap(bank: Bank) -> None:
    reader = bank.reader()
    reader.read_after(0, 10)
    bank.pay()
    _, position = take(reader, 0, 1)
    reader.close()
    try:
        bank.admin("ALTER SYSTEM SET max_slot_wal_keep_size = 0")
        bank.admin("SELECT pg_reload_conf()")

        def removed() -> bool:
            bank.pay()
            bank.admin("SELECT pg_switch_wal()")
            bank.admin("CHECKPOINT")
            sql = "SELECT 1 FROM pg_replication_slots WHERE wal_status = 'lost'"
            return bank.admin(sql) == [(1,)]

        until(removed)
    finally:
        bank.admin("ALTER SYSTEM RESET max_slot_wal_keep_size")
        bank.admin("SELECT pg_reload_conf()")
    with pytest.raises(EventsError, match="is lost"):
        bank.reader().read_after(position, 10)


def test_another_server_or_an_older_state_of_it_is_refused(bank: Bank) -> None:
    bank.reader().read_after(0, 10)
    with pytest.raises(EventsError, match="another server, or an older state"):
        bank.reader().read_after(IN_LOG + (1 << 60), 10)


def test_what_the_stream_says_is_decoded() -> None:
    decoder = Decoder()
    begin = b"B" + bytes(20)
    table = b"R" + bytes([0, 0, 0, 9]) + b"s\0outbox\0d" + b"\0\1" + b"\1seq\0"
    table += (20).to_bytes(4) + b"\xff\xff\xff\xff"
    row = b"I" + bytes([0, 0, 0, 9]) + b"N\0\1b\0\0\0\x08" + (-7).to_bytes(8, signed=True)
    commit = b"C\0" + bytes(8) + (513).to_bytes(8) + bytes(8)
    for each in (begin, table, row):
        assert decoder.decode(each) is None
        assert decoder.between_transactions is False
    assert decoder.decode(commit) == Transaction(513, [{"seq": -7}])
    assert decoder.between_transactions
    for wrong in (commit, row, b"D", b"", table[:-1], b"T" + bytes(9)):
        with pytest.raises(EventsError, match="can't be read"):
            Decoder().decode(wrong)


@given(st.binary(max_size=64), st.sampled_from([b"B", b"R", b"I", b"C", b"O", b""]))
def test_bytes_that_are_no_message_are_an_error_or_nothing(rest: bytes, kind: bytes) -> None:
    decoder = Decoder()
    decoder.decode(b"B" + bytes(20))
    decoder.decode(
        b"R" + bytes([0, 0, 0, 9]) + b"s\0t\0d\0\1\1a\0" + bytes([0, 0, 0, 25]) + b"\0" * 4
    )
    try:
        decoder.decode(kind + rest)
    except EventsError as error:
        assert "can't be read" in str(error)
