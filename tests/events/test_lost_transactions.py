"""A transaction that ends in its middle: nothing that follows stands, whoever catches the error."""

import itertools
import sqlite3
import threading
from collections.abc import Callable
from contextlib import suppress

import psycopg
import pytest

from counterfoil.events import (
    Command,
    Context,
    Database,
    Events,
    Pipeline,
    PipelineRunner,
    Reply,
    ServiceStore,
    StoreUnavailable,
    Unit,
)
from counterfoil.events.postgres import PostgresDatabase
from counterfoil.events.sqlite import SqliteDatabase

from .test_exactly_once import (
    PATIENCE_SECONDS,
    TOPIC,
    Paid,
    append,
    make_log,
    message,
)

SEEN_TABLE = "CREATE TABLE IF NOT EXISTS seen (id INTEGER PRIMARY KEY)"
INSERT = "INSERT INTO seen VALUES (?)"


def lose(database: Database, other: Database) -> None:
    """End the transaction of `database` as a restart of the server or a failing disk does."""
    if isinstance(database, SqliteDatabase):
        # A write that is interrupted takes its whole transaction with it.
        database._connection.set_progress_handler(lambda: 1, 1)
        with suppress(StoreUnavailable):
            database.execute("INSERT INTO state VALUES ('interrupted', '', x'')")
        database._connection.set_progress_handler(None, 1)
        return
    assert isinstance(database, PostgresDatabase)
    assert database._connection is not None
    backend = database._connection.info.backend_pid
    other.execute("SELECT pg_terminate_backend(?, 5000)", (backend,))


@pytest.fixture
def pair(events: Events) -> tuple[Database, Database]:
    """Two connections to the database of the pipelines."""
    databases = events.pipelines().database, events.pipelines().database
    databases[0].create([SEEN_TABLE])
    return databases


def seen(database: Database) -> list[int]:
    return [number for (number,) in database.execute("SELECT id FROM seen ORDER BY id")]


def test_a_machine_that_is_gone_is_found_out_within_a_minute(
    pair: tuple[Database, Database],
) -> None:
    database, _ = pair
    if isinstance(database, SqliteDatabase):
        return  # on one machine
    seconds = dict[str, int]()
    for name in ("idle", "interval", "count"):
        (told,) = database.execute(
            "SELECT current_setting(?)", (f"tcp_keepalives_{name}",)
        ).fetchone()
        seconds[name] = int(told)
    assert seconds["idle"] + seconds["interval"] * seconds["count"] == 60
    assert isinstance(database, PostgresDatabase)
    assert database._connection is not None
    ours = database._connection.info.get_parameters()
    assert [ours[f"keepalives_{name}"] for name in seconds] == [str(n) for n in seconds.values()]


def test_statements_after_a_lost_transaction_do_not_commit_by_themselves(
    pair: tuple[Database, Database],
) -> None:
    database, other = pair
    with pytest.raises(StoreUnavailable), database.transaction():
        database.execute(INSERT, (1,))
        lose(database, other)
        for number in (2, 3):
            with pytest.raises(StoreUnavailable):
                database.execute(INSERT, (number,))
        with pytest.raises(StoreUnavailable):
            database.executemany(INSERT, [(4,)])
        with pytest.raises(StoreUnavailable), database.transaction():
            database.execute(INSERT, (5,))
    assert seen(database) == []
    database.execute(INSERT, (6,))
    assert seen(database) == [6]


def test_a_lost_savepoint_does_not_count_as_made(pair: tuple[Database, Database]) -> None:
    database, other = pair
    with pytest.raises(StoreUnavailable), database.transaction():
        database.execute(INSERT, (1,))
        with pytest.raises(StoreUnavailable), database.transaction():
            lose(database, other)
            with suppress(StoreUnavailable):
                database.execute(INSERT, (2,))
    assert seen(database) == []


def test_a_transaction_with_a_failed_statement_is_not_said_to_be_committed(
    pair: tuple[Database, Database],
) -> None:
    database, _ = pair
    try:
        with database.transaction():
            database.execute(INSERT, (1,))
            with suppress(sqlite3.IntegrityError, psycopg.IntegrityError):
                database.execute(INSERT, (1,))
    except psycopg.errors.InFailedSqlTransaction:
        assert seen(database) == []
    else:
        assert seen(database) == [1]


def test_a_pipeline_whose_handler_survives_a_lost_transaction_counts_each_event_once(
    events: Events,
) -> None:
    store, other = events.pipelines(), events.pipelines().database
    losing = iter([False, True])

    def add(event: Paid, context: Context) -> None:
        if next(losing, False):
            lose(store.database, other)
        with suppress(Exception):  # a look-up that may fail
            context.state.get(f"discount/{event.id}")
        total = int(context.state.get("total") or b"0") + event.amount
        context.state.put("total", str(total).encode())

    log = make_log(events)
    append(log, [message(number) for number in range(4)])
    runner = PipelineRunner(log, store, Pipeline("p", TOPIC, add), lambda: 1)
    handled = lost = 0
    while handled < 4:
        try:
            handled += runner.step()
        except StoreUnavailable:
            lost += 1
    assert lost == 1
    assert other.execute("SELECT value FROM state WHERE key = 'total'").fetchone() == (b"400",)


def test_a_command_that_survives_a_lost_transaction_has_one_effect(events: Events) -> None:
    ids = itertools.count(1)
    database, other = events.service("bank"), events.service("bank")
    points = "CREATE TABLE IF NOT EXISTS points (who TEXT PRIMARY KEY, number INTEGER NOT NULL)"
    state = "CREATE TABLE IF NOT EXISTS state (pipeline TEXT, key TEXT, value BLOB)"
    store = ServiceStore(
        database, [points, state, SEEN_TABLE], next_id=lambda: next(ids), clock_us=lambda: 1
    )
    losing: list[Callable[[Database, Database], None]] = [lose]

    def earn(unit: Unit) -> Reply:
        if losing:
            losing.pop()(database, other)
        with suppress(Exception):
            unit.execute(INSERT, (1,))
        unit.execute(
            "INSERT INTO points VALUES ('ann', 1) "
            "ON CONFLICT (who) DO UPDATE SET number = points.number + 1"
        )
        return Reply(201, b"", {})

    with pytest.raises(StoreUnavailable):
        store.submit(Command("k", b"", {}, earn)).result(PATIENCE_SECONDS)
    assert store.submit(Command("k", b"", {}, earn)).result(PATIENCE_SECONDS).status == 201
    assert store.submit(Command("k", b"", {}, earn)).result(PATIENCE_SECONDS).status == 201
    store.close()
    assert other.execute("SELECT number FROM points").fetchall() == [(1,)]


def test_commands_that_wait_for_each_other_in_two_instances_are_done_one_by_one(
    events: Events,
) -> None:
    ids, stores = itertools.count(1), list[ServiceStore]()
    schema = [
        "CREATE TABLE IF NOT EXISTS stock (name TEXT PRIMARY KEY, sold INTEGER NOT NULL)",
        "INSERT INTO stock VALUES ('a', 0), ('b', 0) ON CONFLICT DO NOTHING",
    ]
    for _ in range(2):
        stores.append(
            ServiceStore(
                events.service("shop"), schema, next_id=lambda: next(ids), clock_us=lambda: 1
            )
        )
    both_begin, both_hold = threading.Barrier(2), threading.Barrier(2)

    def gathered(unit: Unit) -> Reply:
        with suppress(threading.BrokenBarrierError):
            both_begin.wait(1)  # what is handed over meanwhile is of one commit
        return Reply(200, b"", {})

    def sell(name: str) -> Callable[[Unit], Reply]:
        def handle(unit: Unit) -> Reply:
            unit.execute("UPDATE stock SET sold = sold + 1 WHERE name = ?", (name,))
            with suppress(threading.BrokenBarrierError):
                both_hold.wait(0.5)  # where one commit is written at a time nobody else comes
            return Reply(200, b"", {})

        return handle

    answers = [
        store.submit(Command(f"{number} {key}", b"h", {}, handle))
        for number, (store, names) in enumerate(zip(stores, ("ab", "ba"), strict=True))
        for key, handle in (("", gathered), *((name, sell(name)) for name in names))
    ]
    assert [answer.result(PATIENCE_SECONDS).status for answer in answers] == [200] * 6
    for store in stores:
        store.close()
    found = events.service("shop").execute("SELECT name, sold FROM stock ORDER BY name")
    assert found.fetchall() == [("a", 2), ("b", 2)]
