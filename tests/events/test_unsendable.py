"""What can't be sent or committed is refused before anything is promised, and fails alone."""

import itertools
import random
import string
import subprocess
import sys
import textwrap
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from counterfoil.engines import RunningEngine
from counterfoil.events import (
    Command,
    Context,
    DeadLetters,
    EmbeddedEvents,
    Events,
    EventsError,
    ExchangeLog,
    InvalidEvent,
    KafkaEvents,
    LogPipelineRunner,
    Message,
    Pipeline,
    PipelineRunner,
    Relay,
    Reply,
    ServiceStore,
    StoreUnavailable,
    Topic,
    Unit,
    VersionConflict,
)
from counterfoil.events.service_store import EXIT_STATUS
from counterfoil.events.topics import EVENT_BYTES

from .test_exactly_once import (
    PATIENCE_SECONDS,
    SEEN,
    TOPIC,
    Paid,
    append,
    handle,
    make_log,
    message,
    pay,
    records,
    relay_all,
)

LARGEST = EVENT_BYTES - len(SEEN.encode(Paid(1, "", 1))) - 1
"""Characters of the account of the largest event under a key of one byte."""


@pytest.fixture
def store(events: Events) -> Iterator[ServiceStore]:
    """A service that keeps payments."""
    ids = itertools.count(1_000)
    schema = ["CREATE TABLE IF NOT EXISTS paid (id INTEGER PRIMARY KEY, amount INTEGER)"]
    store = ServiceStore(
        events.service("bank"), schema, next_id=lambda: next(ids), clock_us=lambda: 1
    )
    yield store
    store.close()


def doing(key: str, work: Callable[[Unit], object]) -> Command:
    def handle(unit: Unit) -> Reply:
        work(unit)
        return Reply(201, b"", {})

    return Command(key, b"h", {}, handle)


@pytest.mark.parametrize(
    ("event", "key", "number"),
    [
        (Paid(1, "a", 1), "a", 1 << 63),
        (Paid(1, "a", 1), "a", -1),
        (Paid(1, "a", 1), "ann\0", 1),
        (Paid(1, "a", 1), "\ud800", 1),
        (Paid(1, "x" * (LARGEST + 1), 1), "a", 1),
        (Paid(1, "x" * LARGEST, 1), "ü", 1),
    ],
)
def test_what_no_engine_takes_is_refused_where_it_is_published(
    embedded: EmbeddedEvents, event: Paid, key: str, number: int
) -> None:
    database = embedded.service("bank")
    unit = Unit(database, {}, lambda: 1, 1)
    with pytest.raises(InvalidEvent):
        unit.publish(SEEN, event, key=key, event_id=number)
    assert unit.published == []


def test_a_command_that_spoils_the_commit_fails_alone(store: ServiceStore) -> None:
    beyond = Message(1 << 63, "paid", "a", b"{}", {}, 1)
    held, holding = threading.Event(), threading.Event()

    def hold(unit: Unit) -> None:
        held.set()
        assert holding.wait(PATIENCE_SECONDS)

    first = store.submit(doing("first", hold))
    assert held.wait(PATIENCE_SECONDS)
    good = [store.submit(pay(5, key=f"good-{number}")) for number in range(3)]
    bad = store.submit(doing("bad", lambda unit: unit.published.append(beyond)))
    good.append(store.submit(pay(5, key="good-3")))
    holding.set()
    assert first.result(PATIENCE_SECONDS).status == 201
    with pytest.raises(Exception, match=r"(?i)int"):  # each database has its own words
        bad.result(PATIENCE_SECONDS)
    assert len({each.result(PATIENCE_SECONDS).body for each in good}) == 4
    assert (
        store.submit(pay(5, key="good-3")).result(PATIENCE_SECONDS).body == good[-1].result().body
    )


def test_a_command_that_exits_or_was_cancelled_does_not_end_the_writer(
    store: ServiceStore,
) -> None:
    held, holding = threading.Event(), threading.Event()

    def hold(unit: Unit) -> None:
        held.set()
        assert holding.wait(PATIENCE_SECONDS)

    def exit_(unit: Unit) -> None:
        raise SystemExit(1)

    def conflict(unit: Unit) -> None:
        raise VersionConflict("changed")

    first = store.submit(doing("first", hold))
    assert held.wait(PATIENCE_SECONDS)
    cancelled, exits = store.submit(doing("c", conflict)), store.submit(doing("e", exit_))
    assert cancelled.cancel()
    holding.set()
    assert first.result(PATIENCE_SECONDS).status == 201
    with pytest.raises(CancelledError):
        cancelled.result(PATIENCE_SECONDS)
    with pytest.raises(RuntimeError, match="SystemExit"):
        exits.result(PATIENCE_SECONDS)
    assert store.submit(pay(1)).result(PATIENCE_SECONDS).status == 201


def test_a_process_whose_writer_ends_does_not_outlive_it(tmp_path: Path) -> None:
    program = f"""
    from pathlib import Path
    from counterfoil.events import Command, EmbeddedEvents, Reply, ServiceStore

    def clock():
        raise SystemExit(0)

    store = ServiceStore(
        EmbeddedEvents(Path({str(tmp_path)!r})).service("s"), [], next_id=int, clock_us=clock
    )
    store.submit(Command("k", b"", {{}}, lambda unit: Reply(201, b"", {{}}))).result()
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert ended.returncode == EXIT_STATUS
    assert "the_writer_of_a_service_has_ended" in ended.stdout + ended.stderr


def test_an_event_of_the_largest_size_goes_all_the_way_and_a_larger_one_is_refused(
    events: Events, store: ServiceStore
) -> None:
    def send(length: int) -> Callable[[Unit], None]:
        return lambda unit: unit.publish(TOPIC, Paid(1, "x" * length, 1), key="a")

    assert store.submit(doing("1", send(LARGEST))).result(PATIENCE_SECONDS).status == 201
    with pytest.raises(InvalidEvent, match="bytes"):
        store.submit(doing("2", send(LARGEST + 1))).result(PATIENCE_SECONDS)
    assert store.submit(pay(5, key="3")).result(PATIENCE_SECONDS).status == 201
    log = make_log(events)
    appender = log.appender("bank", 1)
    assert Relay(events.outbox("bank"), appender).step() == 2
    appender.close()

    def fail(event: Paid, context: Context) -> None:
        if event.amount == 1:
            context.emit(SEEN, Paid(1, event.account + "x", 1), key="a")  # one byte too much

    handle(PipelineRunner(log, events.pipelines(), Pipeline("forward", TOPIC, fail), lambda: 1), 2)
    (letter,) = DeadLetters(events.pipelines()).list()
    assert letter.error.startswith("InvalidEvent")
    relay_all(events)  # the dead letter is larger than its event, and is taken all the same
    told = Topic("forward.dead-letters", Paid, partitions=1)
    assert len(records(events, told, 1)[0].value) == len(letter.value)


def test_events_of_a_topic_that_is_no_longer_declared_leave_the_outbox(events: Events) -> None:
    gone = Topic("gone", Paid)
    make_log(events).declare([gone])
    log = make_log(events)
    appender = log.appender("test", 1)
    value = msgspec.json.encode(Paid(1, "a", 1))
    appender.append([Message(1, "gone", "a", value, {}, 1), message(2)], 1)
    appender.close()
    assert [each.event_id for each in records(events, gone, 1)] == [1]


def test_what_pipelines_send_beside_kafka_goes_to_declared_topics_alone(
    engine: Callable[[str], RunningEngine],
) -> None:
    postgres = engine("postgres")
    application = f"test-{uuid.uuid4().hex}"
    events = KafkaEvents(
        "127.0.0.1:1", postgres.address, postgres.secret, application, topics=[TOPIC]
    )
    with closing(events.pipelines()) as pipelines:
        pipelines.send([message(1)])
        with pytest.raises(EventsError, match="no topic 'elsewhere'"):
            pipelines.send([msgspec.structs.replace(message(2), topic="elsewhere")])
        rows = pipelines.database.execute("SELECT event_id FROM outbox").fetchall()
    assert rows == [(1,)]


NOWHERE = Topic("nowhere", Paid)


def test_what_a_stateless_handler_sends_to_a_topic_that_does_not_exist_holds_up_nothing(
    events: Events,
) -> None:
    def send_on(event: Paid, context: Context) -> None:
        context.emit(NOWHERE if event.id == 2 else SEEN, event, key="a")

    log = make_log(events)
    pipeline = Pipeline("send", TOPIC, send_on, stateless=True, tries=1)
    store = events.pipelines()
    kind = LogPipelineRunner if isinstance(log, ExchangeLog) else PipelineRunner
    append(log, [message(number) for number in (1, 2, 3)])
    seconds = itertools.count(1_000_000, 1_000_000)
    runner = kind(log, store, pipeline, lambda: next(seconds))  # type: ignore[arg-type]
    deadline = time.monotonic() + PATIENCE_SECONDS
    letters = DeadLetters(store)
    while not letters.list():
        runner.step()
        assert time.monotonic() < deadline
    runner.step()
    runner.close()
    assert {each.event_id for each in records(events, SEEN, 2)} == {1, 3}
    (letter,) = letters.list()
    assert (letter.event_id, letter.error.splitlines()[0]) == (2, "EventsError: no topic 'nowhere'")


UNCOMPRESSED = "".join(random.Random(1).choices(string.printable, k=4_000))
"""As a key it has no place in an index of PostgreSQL's, which takes 2,704 bytes."""


def test_a_key_that_is_too_long_for_an_index_is_its_events_failure(events: Events) -> None:
    keys = ["a", UNCOMPRESSED, "b"]
    log = make_log(events)
    append(log, [Message(n, "paid", key, message(n).value, {}, 1) for n, key in enumerate(keys)])

    def keep(event: Paid, context: Context) -> None:
        context.state.put(context.record.key, b"x")

    pipeline = Pipeline("p", TOPIC, keep)
    with closing(PipelineRunner(log, events.pipelines(), pipeline, lambda: 1)) as runner:
        handle(runner, 3)
    found = events.pipelines().database.execute("SELECT key FROM state").fetchall()
    kept = {key for (key,) in found}
    letters = DeadLetters(events.pipelines()).list()
    if isinstance(events, EmbeddedEvents):
        assert (kept, letters) == (set(keys), [])
    else:
        assert kept == {"a", "b"}
        assert [letter.key for letter in letters] == [UNCOMPRESSED]
        assert "index row size" in letters[0].error


def test_a_command_with_a_value_that_is_too_long_for_an_index_fails_alone(events: Events) -> None:
    store = ServiceStore(
        events.service("shop"),
        ["CREATE TABLE IF NOT EXISTS customers (name TEXT PRIMARY KEY)"],
        next_id=itertools.count(1).__next__,
        clock_us=lambda: 1,
    )

    def named(name: str) -> Command:
        def handle(unit: Unit) -> Reply:
            unit.execute("INSERT INTO customers VALUES (?)", (name,))
            return Reply(201, b"", {})

        return Command(name[:10], b"h", {}, handle)

    names = ["ada", UNCOMPRESSED, "bob"]
    outcomes = [store.submit(named(name)).exception(PATIENCE_SECONDS) for name in names]
    store.close()
    assert outcomes[0] is outcomes[2] is None
    if not isinstance(events, EmbeddedEvents):
        assert not isinstance(outcomes[1], StoreUnavailable | None)
