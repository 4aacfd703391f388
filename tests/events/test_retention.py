"""The embedded log forgets what is old and was read by everybody, and nothing else."""

import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType

from counterfoil.engines import RunningEngine
from counterfoil.events import (
    Choreography,
    ChoreographyTracer,
    Context,
    EmbeddedEvents,
    Events,
    KafkaEvents,
    LogPipelineRunner,
    LogUnavailable,
    Message,
    Parallel,
    ParallelRunner,
    Pipeline,
    PipelineRunner,
    Saga,
    SagaCoordinator,
    StepContext,
    TermOver,
    Topic,
    lag,
)
from counterfoil.events.retention import CHUNK, Retention

from .test_exactly_once import PATIENCE_SECONDS, Paid

SHORT = Topic("paid", Paid, partitions=2, retention_seconds=10)
SECOND_US = 1_000_000


def message(number: int, at_us: int) -> Message:
    value = SHORT.encode(Paid(number, "a", 1))
    return Message(number, "paid", f"a{number % 5}", value, {}, at_us)


@pytest.fixture
def append(embedded: EmbeddedEvents) -> Callable[..., None]:
    log = embedded.log()
    log.declare([SHORT])
    appender = log.appender("test", 1)

    def write(numbers: range, at_us: int) -> None:
        messages = [message(number, at_us) for number in numbers]
        appender.append(messages, appender.position + 1)

    return write


def left(events: EmbeddedEvents) -> list[int]:
    reader = events.log().reader([SHORT], lambda _: {})
    return sorted(record.event_id for batch in reader.fetch(10_000) for record in batch.records)


def forget(retention: Retention, now_us: int) -> int:
    forgotten = 0
    while moved := retention.step(now_us):
        forgotten += moved
    return forgotten


def test_what_is_old_goes_and_what_is_not_stays(
    embedded: EmbeddedEvents, append: Callable[..., None]
) -> None:
    append(range(10), SECOND_US)
    append(range(10, 20), 5 * SECOND_US)
    retention = embedded.retention([SHORT])
    assert forget(retention, 11 * SECOND_US) == 0
    assert left(embedded) == list(range(20))
    assert forget(retention, 11 * SECOND_US + 1) == 2
    assert left(embedded) == list(range(10, 20))
    append(range(20, 22), 12 * SECOND_US)
    assert forget(retention, 100 * SECOND_US) > 0
    assert left(embedded) == []
    append(range(22, 24), 100 * SECOND_US)
    assert left(embedded) == [22, 23]


def test_offsets_go_on_when_all_is_forgotten(
    embedded: EmbeddedEvents, append: Callable[..., None]
) -> None:
    append(range(10), SECOND_US)
    ends = embedded.log().ends("paid")
    assert embedded.log().begins(SHORT) == {0: 0, 1: 0}
    forget(embedded.retention([SHORT]), 100 * SECOND_US)
    assert left(embedded) == []
    assert embedded.log().begins(SHORT) == ends
    assert embedded.log().ends("paid") == ends
    append(range(10, 15), 100 * SECOND_US)
    batches = embedded.log().reader([SHORT], lambda _: ends).fetch(10)
    assert {batch.partition: batch.records[0].offset for batch in batches} == ends
    assert sum(len(batch.records) for batch in batches) == 5


def test_what_a_consumer_has_not_read_stays(
    embedded: EmbeddedEvents, append: Callable[..., None]
) -> None:
    append(range(10), SECOND_US)
    seen: list[int] = []

    def see(event: Paid, context: Context) -> None:
        seen.append(event.id)

    def runner(name: str) -> PipelineRunner:
        pipeline = Pipeline(name, SHORT, see)
        return PipelineRunner(embedded.log(), embedded.pipelines(), pipeline, lambda: 1)

    slow, fast = runner("slow"), runner("fast")
    assert slow.step() == fast.step() == 10
    append(range(10, 20), SECOND_US)
    assert fast.step() == 10
    retention = embedded.retention([SHORT])
    forget(retention, 1_000 * SECOND_US)
    assert left(embedded) == list(range(10, 20))
    assert slow.step() == 10
    assert sorted(seen[-10:]) == list(range(10, 20))
    forget(retention, 1_000 * SECOND_US)
    assert left(embedded) == []


def test_a_consumer_that_has_read_one_partition_keeps_the_others(
    embedded: EmbeddedEvents, append: Callable[..., None]
) -> None:
    append(range(10), SECOND_US)
    embedded.pipelines().store_positions("half", "paid", {0: 1_000})
    forget(embedded.retention([SHORT]), 1_000 * SECOND_US)
    kept = [number for number in range(10) if SHORT.partition_of(f"a{number % 5}") == 1]
    assert left(embedded) == kept


def test_a_topic_without_retention_is_kept(
    embedded: EmbeddedEvents, append: Callable[..., None]
) -> None:
    append(range(10), SECOND_US)
    forget(embedded.retention([Topic("paid", Paid, partitions=2)]), 1_000 * SECOND_US)
    assert len(left(embedded)) == 10


def test_no_step_forgets_more_than_a_chunk(
    embedded: EmbeddedEvents, append: Callable[..., None]
) -> None:
    for number in range(CHUNK + 10):
        append(range(number * 5, number * 5 + 1), SECOND_US)  # one key, and so one partition
    retention = embedded.retention([SHORT])
    steps = [retention.step(1_000 * SECOND_US), retention.step(1_000 * SECOND_US)]
    assert steps == [CHUNK, 10]
    assert retention.step(1_000 * SECOND_US) == 0
    assert not retention.behind


def test_many_records_are_a_chunk_though_they_are_few_batches(
    embedded: EmbeddedEvents, append: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("counterfoil.events.retention.CHUNK_RECORDS", 5)
    append(range(20), SECOND_US)
    append(range(20, 40), SECOND_US)
    retention = embedded.retention([SHORT])
    steps = [(retention.step(1_000 * SECOND_US), retention.behind) for _ in range(4)]
    assert sum(forgotten for forgotten, _ in steps) == 4
    assert steps[0] == (1, True)
    assert forget(retention, 1_000 * SECOND_US) == 0
    assert not retention.behind
    assert left(embedded) == []


def test_each_step_forgets_of_one_partition_alone(
    embedded: EmbeddedEvents, append: Callable[..., None]
) -> None:
    append(range(10), SECOND_US)
    ends = embedded.log().ends("paid")
    retention = embedded.retention([SHORT])
    assert retention.step(1_000 * SECOND_US) == 1
    assert retention.behind
    assert embedded.log().begins(SHORT) == {0: ends[0], 1: 0}


def test_forgetting_writes_little_of_what_it_forgets(
    embedded: EmbeddedEvents, append: Callable[..., None], tmp_path: Path
) -> None:
    for number in range(20):
        append(range(number * 1_000, (number + 1) * 1_000), SECOND_US)
    database = embedded.pipelines().database
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    (log_ahead,) = tmp_path.rglob("events.db-wal")
    assert log_ahead.stat().st_size == 0
    size = database.execute("SELECT sum(length(records)) FROM record_batches").fetchone()[0]
    forget(embedded.retention([SHORT]), 1_000 * SECOND_US)
    assert left(embedded) == []
    assert log_ahead.stat().st_size < size / 4


def test_what_a_term_reads_at_first_does_not_grow_with_the_commits_before_it(
    engine: Callable[[str], RunningEngine],
) -> None:
    kafka, postgres = engine("kafka"), engine("postgres")
    name = f"positions-{uuid.uuid4().hex}"
    events = KafkaEvents(kafka.address, postgres.address, postgres.secret, application=name)
    events.log().appender("bank", 1).close()
    (found,) = settings(kafka.address, [f"{name}.bank.positions"], "cleanup.policy", ["compact"])
    assert int(found["segment.bytes"]) <= 4 * 1024 * 1024, "what isn't full is not compacted"


def test_kafka_is_told_how_long_to_keep(engine: Callable[[str], RunningEngine]) -> None:
    application = f"test-{uuid.uuid4().hex}"
    servers = engine("kafka").address
    KafkaEvents(servers, "", None, application).log().declare([SHORT, Topic("other", Paid)])
    names = [f"{application}.{name}" for name in ("paid", "other")]
    settings(servers, names, "retention.ms", ["-1", "10000"])


def settings(servers: str, topics: list[str], name: str, values: list[str]) -> list[dict[str, str]]:
    """The settings of topics once `name` has `values`: a broker hears of them after a creation."""
    admin = AdminClient({"bootstrap.servers": servers})
    resources = [ConfigResource(ResourceType.TOPIC, topic) for topic in topics]
    deadline, found = time.monotonic() + PATIENCE_SECONDS, list[dict[str, str]]()
    while sorted(each[name] for each in found) != values:
        assert time.monotonic() < deadline, found
        with suppress(KafkaException):  # it doesn't know of a topic
            asked = admin.describe_configs(resources).values()
            told = [each.result(PATIENCE_SECONDS).values() for each in asked]
            found = [{each.name: each.value for each in topic} for topic in told]
    return found


@pytest.mark.parametrize("kind", ["pipeline", "table", "parallel", "saga", "choreography"])
def test_what_has_started_and_never_committed_keeps_all_of_its_topic(
    embedded: EmbeddedEvents, append: Callable[..., None], kind: str
) -> None:
    log, store = embedded.log(), embedded.pipelines()
    other = Topic("other", Paid)
    if kind in ("pipeline", "table"):
        source, tables = (SHORT, []) if kind == "pipeline" else (other, [SHORT])
        pipeline = Pipeline("reader", source, lambda event, context: None, tables=tables)
        PipelineRunner(log, store, pipeline, lambda: 1)
    elif kind == "parallel":
        runner = ParallelRunner(log, store, Parallel("reader", SHORT, lambda event: 1), lambda: 1)
        runner.close()
    elif kind == "saga":
        saga = Saga("reader", SHORT)
        saga.step()(nothing)
        SagaCoordinator(log, store, saga, fencing_token=1, now_us=lambda: 1)
    else:
        followed = Choreography("reader", SHORT, timeout_seconds=1)
        ChoreographyTracer(log, store, followed, lambda: 1)
    append(range(10), SECOND_US)
    assert forget(embedded.retention([SHORT]), 1_000 * SECOND_US) == 0
    assert left(embedded) == list(range(10))
    assert sum(each.lag for each in lag(log, store) if each.topic == "paid") == 10
    (consumer,) = {each[0] for each in store.consumers()}
    assert store.forget(consumer) > 0
    forget(embedded.retention([SHORT]), 1_000 * SECOND_US)
    assert left(embedded) == []


def test_who_has_the_name_of_a_forgotten_consumer_begins_with_nothing(
    embedded: EmbeddedEvents, append: Callable[..., None]
) -> None:
    store, seen = embedded.pipelines(), list[int]()

    def work(event: Paid) -> int:
        return event.id

    parallel: Parallel[Paid, int] = Parallel("reader", SHORT, work)

    @parallel.then
    def note(event: Paid, result: int, context: Context) -> None:
        seen.append(result)
        before = int(context.state.get("events") or b"0")
        context.state.put("events", str(before + 1).encode())

    append(range(10), SECOND_US)
    for _ in range(2):
        runner = ParallelRunner(embedded.log(), store, parallel, lambda: 1)
        deadline = time.monotonic() + 20
        while len(seen) < 10:
            runner.step()
            assert time.monotonic() < deadline, seen
        runner.close()
        assert sorted(seen) == list(range(10))
        (count,) = store.database.execute("SELECT value FROM state").fetchone()
        assert bytes(count) == b"10"
        # What a crash leaves of events that were done beyond one that was not.
        store.database.execute(
            "UPDATE parallel_done SET offsets = ?", (msgspec.json.encode([1, 1]),)
        )
        assert store.forget("reader") > 0
        seen.clear()


def nothing(event: Paid, step: StepContext) -> None:
    """Does nothing."""


def test_a_consumer_that_begins_anew_stays_where_it_was(events: Events) -> None:
    store, log = events.pipelines(), events.log()
    log.declare([SHORT])
    store.store_positions("reader", "paid", {1: 7})
    for _ in range(2):
        store.begin("reader", [SHORT], log)
    assert store.positions("reader", "paid") == {0: 0, 1: 7}


def delete_before(kafka: RunningEngine, topic: str, offset: int) -> None:
    """What brokers do with what is old, in all partitions at once."""
    admin = AdminClient({"bootstrap.servers": kafka.address})
    for deletion in admin.delete_records([TopicPartition(topic, 0, offset)]).values():
        deletion.result(PATIENCE_SECONDS)


@pytest.mark.parametrize("stateless", [False, True], ids=["state", "stateless"])
@pytest.mark.parametrize("read", [0, 2], ids=["nothing-read", "some-read"])
def test_what_kafka_has_deleted_before_it_was_read_is_told_and_not_passed_over(
    engine: Callable[[str], RunningEngine], stateless: bool, read: int
) -> None:
    postgres, kafka = engine("postgres"), engine("kafka")
    name = f"deleted-{uuid.uuid4().hex}"
    events = KafkaEvents(kafka.address, postgres.address, postgres.secret, application=name)
    one = Topic("paid", Paid, partitions=1)
    seen: list[int] = []
    log, store = events.log(), events.pipelines()
    log.declare([one])

    def send(number: int) -> None:
        appender = log.appender("test", 1)
        value = one.encode(Paid(number, "a", 1))
        appender.append([Message(number, "paid", "a", value, {}, 1)], appender.position + 1)
        appender.close()

    def running(pipeline: str) -> PipelineRunner | LogPipelineRunner:
        handler = Pipeline(
            pipeline, one, lambda event, _: seen.append(event.id), stateless=stateless
        )
        kind = LogPipelineRunner if stateless else PipelineRunner
        return kind(events.log(), store, handler, lambda: 1)

    def until_seen(runner: PipelineRunner | LogPipelineRunner, number: int) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while len(seen) < number:
            runner.step()
            assert time.monotonic() < deadline

    first = running("count")
    for number in range(read):
        send(number)
    until_seen(first, read)
    if stateless:
        first.step()  # which waits for the commit
    first.close()
    for number in range(read, 5):
        send(number)
    delete_before(kafka, f"{name}.paid", 8)
    again = running("count")
    with pytest.raises((LogUnavailable, TermOver), match="deleted") as told:
        for _ in range(100):
            again.step()
    assert f"paid/0: what is between {2 * read and 2 * read - 1} and 8" in str(told.value)
    again.close()
    seen.clear()
    late = running("begun-later")
    until_seen(late, 1)
    late.close()
    assert seen == [4]
    store.close()
