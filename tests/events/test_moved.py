"""What is carried over to Kafka and PostgreSQL goes on there: positions, counters and tokens."""

import itertools
import time
import uuid
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from counterfoil import Application, Context, Migration
from counterfoil.application import StateFolder
from counterfoil.engines import RunningEngine
from counterfoil.events import (
    DeadLetters,
    EmbeddedEvents,
    KafkaEvents,
    LogPipelineRunner,
    Message,
    PipelineRunner,
    StatelessContext,
    create_all_tables,
    create_service,
)
from counterfoil.events.sagas.instances import Instances
from counterfoil.kafka_access import KafkaAccess
from counterfoil.move.coordination import forget_tokens
from counterfoil.move.errors import MoveError
from counterfoil.move.events import copy_events

from .test_exactly_once import PATIENCE_SECONDS, Paid

HOUR_US = 3_600_000_000
NOW_US = 1_000 * HOUR_US


@pytest.fixture
def kafka(engine: Callable[[str], RunningEngine]) -> KafkaEvents:
    postgres = engine("postgres")
    access = KafkaAccess(engine("kafka").address)
    name = f"moved-{uuid.uuid4().hex}"
    return KafkaEvents(access, postgres.address, postgres.secret, application=name)


def nothing(_: str) -> None:
    """Who told of progress would say this."""


def test_a_dead_letter_that_was_listed_is_not_listed_again(
    tmp_path: Path, embedded: EmbeddedEvents, kafka: KafkaEvents
) -> None:
    application = Application("moved")
    paid = application.topic("paid", Paid, partitions=1)

    @application.pipeline("tell", paid, stateless=True, tries=1)
    def tell(event: Paid, _: StatelessContext) -> None:
        if event.amount in (1, 3):
            raise RuntimeError("poison")
        seen.append(event.amount)

    def message(number: int) -> Message:
        return Message(number, "paid", "a", paid.encode(Paid(number, "a", number)), {}, 1)

    seen: list[int] = []
    log, store = embedded.log(), embedded.pipelines()
    log.declare(application.all_topics())
    log.appender("test", 1).append([message(1)], 1)
    runner = PipelineRunner(log, store, application.pipelines["tell"], lambda: NOW_US)
    while not DeadLetters(store).list():
        runner.step()
    DeadLetters(store).discard(1, "nobody wants it", NOW_US)
    copy_events(application, StateFolder(tmp_path), kafka, nothing)

    there, moved = kafka.log(), kafka.pipelines()
    there.declare(application.all_topics())
    appender = there.appender("test", 1)
    appender.append([message(2), message(3)], 2)
    appender.close()
    seconds = itertools.count(NOW_US, 1_000_000)
    exchange = LogPipelineRunner(there, moved, application.pipelines["tell"], lambda: next(seconds))
    letters = DeadLetters(moved)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not any(each.event_id == 3 for each in letters.list()):
        exchange.step()
        assert time.monotonic() < deadline
    exchange.close()
    found = [(each.event_id, each.state) for each in letters.list()]
    assert found == [(3, "waiting"), (1, "discarded")]
    assert seen == [2]
    moved.database.close()


def test_a_topic_of_which_much_was_forgotten_is_read_on_where_it_was(
    tmp_path: Path, embedded: EmbeddedEvents, kafka: KafkaEvents
) -> None:
    application = Application("moved")
    paid = application.topic("paid", Paid, partitions=2, retention_seconds=3_600)
    told = application.topic("told", Paid, partitions=1)
    application.topic("gone", Paid, partitions=1, retention_seconds=3_600)
    seen: list[int] = []

    @application.pipeline("count", paid)
    def count(event: Paid, _context: object) -> None:
        seen.append(event.amount)

    @application.pipeline("tell", paid, stateless=True)
    def tell(event: Paid, context: StatelessContext) -> None:
        context.emit(told, event, key="a")

    def message(topic: str, number: int, at_us: int) -> Message:
        value = paid.encode(Paid(number, "a", number))
        return Message(number, topic, f"k{number % 5}", value, {}, at_us)

    log, store = embedded.log(), embedded.pipelines()
    log.declare(application.all_topics())
    appender = log.appender("test", 1)
    old, new = NOW_US - 2 * HOUR_US, NOW_US
    appender.append([message("gone", 1_000, old)], 1)
    appender.append([message("paid", number, old) for number in range(100)], 2)
    for number in range(100, 140):
        appender.append([message("paid", number, new)], 3 + number)
    for name in ("count", "tell"):
        declared = application.pipelines[name]
        limited = PipelineRunner(log, store, declared, lambda: NOW_US)
        limited.step()
        limited.close()
    retention = embedded.retention(application.all_topics())
    while retention.step(NOW_US):
        pass
    left = {
        (record.partition, record.offset): record.event_id
        for batch in log.reader([paid], lambda _: {}).fetch(10_000)
        for record in batch.records
    }
    assert 0 < len(left) < 140
    appender.append([message("paid", number, new) for number in range(140, 150)], 1_000)
    before = len(seen)
    assert before == 140
    ends = {topic: log.ends(topic) for topic in ("paid", "told", "gone")}

    copy_events(application, StateFolder(tmp_path), kafka, nothing)

    there = kafka.log()
    there.declare(application.all_topics())
    assert {topic: there.ends(topic) for topic in ends} == ends
    found = {
        (record.partition, record.offset): record.event_id
        for batch in there.reader([paid], lambda _: {}).fetch(10_000)
        for record in batch.records
    }
    assert {place: found[place] for place in left} == left
    assert sorted(set(found.values()) - set(left.values())) == list(range(140, 150))

    moved = kafka.pipelines()
    runner = PipelineRunner(there, moved, application.pipelines["count"], lambda: NOW_US)
    while len(seen) < 150:
        runner.step()
    runner.close()
    assert seen[140:] == sorted(range(140, 150), key=seen.index)
    assert sorted(seen) == list(range(150))
    exchange = LogPipelineRunner(there, moved, application.pipelines["tell"], lambda: NOW_US)
    handled = 0
    while handled < 10:
        handled += exchange.step()
    exchange.step()
    exchange.close()
    assert handled == 10, "what was told before is not told again"
    moved.database.close()


def test_numbers_that_were_given_do_not_come_again(
    tmp_path: Path, embedded: EmbeddedEvents, kafka: KafkaEvents
) -> None:
    application, store = Application("moved"), embedded.pipelines()
    create_all_tables(store.database)
    insert = (
        "INSERT INTO tasks (queue, level, visible_us, attempt, is_unique, content, sent_us) "
        "VALUES ('payout', 1, 0, 0, NULL, ?, 0) RETURNING id"
    )
    content = (b"{}",)
    given = [store.database.execute(insert, content).fetchone()[0] for _ in range(5)]
    store.database.execute("DELETE FROM tasks", ())
    copy_events(application, StateFolder(tmp_path), kafka, nothing)
    moved = kafka.pipelines()
    assert moved.database.execute(insert, content).fetchone()[0] == max(given) + 1
    moved.database.close()


def test_sagas_are_led_with_the_tokens_of_the_new_store(
    tmp_path: Path, embedded: EmbeddedEvents, kafka: KafkaEvents
) -> None:
    store = embedded.pipelines()
    create_all_tables(store.database)
    assert Instances(store.database).fence("order", 500)
    assert not Instances(store.database).fence("order", 7)
    copy_events(Application("moved"), StateFolder(tmp_path), kafka, nothing)
    moved = kafka.pipelines()
    for pipelines in (store, moved):
        forget_tokens(StateFolder(tmp_path).log, pipelines.database)
        assert Instances(pipelines.database).fence("order", 7)
    moved.database.close()


def table_of(kafka: KafkaEvents, sql: str) -> list[tuple[object, ...]]:
    store = kafka.pipelines()
    try:
        return [tuple(row) for row in store.database.execute(sql).fetchall()]
    finally:
        store.database.close()


def test_tables_that_handlers_and_people_have_made_come_along_as_they_are(
    tmp_path: Path, embedded: EmbeddedEvents, kafka: KafkaEvents
) -> None:
    application = Application("moved")
    paid = application.topic("paid", Paid, partitions=1)
    application.service(
        "shop", schema=["CREATE TABLE IF NOT EXISTS Sales (Id TEXT PRIMARY KEY, Amount INTEGER)"]
    )

    @application.pipeline("total", paid)
    def total(event: Paid, context: Context) -> None:
        context.execute("CREATE TABLE IF NOT EXISTS Totals (Payer TEXT PRIMARY KEY, cents INTEGER)")
        context.execute("CREATE INDEX IF NOT EXISTS by_cents ON Totals (cents)")
        context.execute(
            "INSERT INTO totals VALUES (?, ?) ON CONFLICT (payer) "
            "DO UPDATE SET cents = totals.cents + excluded.cents",
            ("ada", event.amount),
        )

    log, store = embedded.log(), embedded.pipelines()
    log.declare(application.all_topics())
    messages = [
        Message(each, "paid", "a", paid.encode(Paid(each, "a", each)), {}, 1) for each in (1, 2)
    ]
    log.appender("test", 1).append(messages, 1)
    PipelineRunner(log, store, application.pipelines["total"], lambda: NOW_US).step()
    database = embedded.service("shop")
    create_service(database, application.services["shop"].schema, [], int)
    database.execute("INSERT INTO sales VALUES ('1', 5)")
    database.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT)")
    database.execute("INSERT INTO notes VALUES (1, 'by hand')")

    carried = copy_events(application, StateFolder(tmp_path), kafka, nothing)
    assert carried.records == 2
    assert table_of(kafka, "SELECT payer, cents FROM totals") == [("ada", 3)]
    assert table_of(kafka, "SELECT 1 FROM pg_indexes WHERE indexname = 'by_cents'") == [(1,)]
    there = kafka.service("shop")
    assert there.execute("SELECT amount FROM sales").fetchall() == [(5,)]
    assert there.execute("SELECT text FROM notes").fetchall() == [("by hand",)]
    there.close()

    with pytest.raises(MoveError, match=r"not empty .*table notes of service shop") as refused:
        copy_events(application, StateFolder(tmp_path), kafka, nothing)
    assert 'DROP SCHEMA "moved.shop", "moved._pipelines" CASCADE' in refused.value.hint


def test_a_column_that_nobody_declares_is_named_and_nothing_is_filled(
    tmp_path: Path, embedded: EmbeddedEvents, kafka: KafkaEvents
) -> None:
    application = Application("moved")
    application.service("shop", schema=["CREATE TABLE IF NOT EXISTS sales (id TEXT)"])
    database = embedded.service("shop")
    create_service(database, application.services["shop"].schema, [], int)
    database.execute("ALTER TABLE sales ADD COLUMN note TEXT")
    database.execute("INSERT INTO sales VALUES ('1', 'by hand')")
    embedded.log().declare(application.all_topics())
    embedded.pipelines().database.close()
    with pytest.raises(MoveError, match="table sales has a column note here"):
        copy_events(application, StateFolder(tmp_path), kafka, nothing)
    there = kafka.service("shop")
    assert there.execute("SELECT count(*) FROM sales").fetchall() == [(0,)]
    there.execute("ALTER TABLE sales ADD COLUMN note TEXT")
    copy_events(application, StateFolder(tmp_path), kafka, nothing)  # it is begun again as it is
    assert there.execute("SELECT note FROM sales").fetchall() == [("by hand",)]
    there.close()


def test_migrations_move_with_the_tables_and_the_rest_is_applied_there(
    tmp_path: Path, embedded: EmbeddedEvents, kafka: KafkaEvents
) -> None:
    orders = "CREATE TABLE IF NOT EXISTS orders (id INTEGER PRIMARY KEY)"
    migrations = [
        Migration("kinds", "CREATE TABLE kinds (name TEXT)", "INSERT INTO kinds VALUES ('large')"),
        Migration("a note", "ALTER TABLE orders ADD COLUMN note TEXT"),
        Migration("fill it", "UPDATE orders SET note = 'moved'"),
    ]
    application = Application("moved")
    application.service("shop", schema=[orders], migrations=migrations)
    with closing(embedded.service("shop")) as source:
        create_service(source, [orders], migrations[:2], lambda: 5)
        source.execute("INSERT INTO orders (id) VALUES (7)")
        source.execute("UPDATE kinds SET name = 'huge'")
    embedded.pipelines().close()
    copy_events(application, StateFolder(tmp_path), kafka, nothing)
    with closing(kafka.service("shop")) as target:
        assert target.execute("SELECT name FROM kinds").fetchall() == [("huge",)]
        assert target.execute("SELECT id, note FROM orders").fetchall() == [(7, None)]
        recorded = target.execute("SELECT number, applied_us FROM migrations ORDER BY 1")
        assert recorded.fetchall() == [(0, 5), (1, 5), (2, 5)]
        done = create_service(target, [orders], migrations, lambda: 6)
        assert [each.what for each in done] == ["fill it"]
        assert target.execute("SELECT id, note FROM orders").fetchall() == [(7, "moved")]
    with pytest.raises(MoveError, match="not empty"):
        copy_events(application, StateFolder(tmp_path), kafka, nothing)


def test_what_is_ahead_of_the_application_is_not_moved(
    tmp_path: Path, embedded: EmbeddedEvents, kafka: KafkaEvents
) -> None:
    made = Migration("make", "CREATE TABLE made (id INTEGER)", expands=True)
    application = Application("moved")
    application.service("shop", schema=[])
    with closing(embedded.service("shop")) as source:
        create_service(source, [], [made], lambda: 5)
    with pytest.raises(MoveError, match="doesn't know"):
        copy_events(application, StateFolder(tmp_path), kafka, nothing)
