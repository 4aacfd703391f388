"""Topics in each format, on both logs: what is written is read, by versions before and after."""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest

from counterfoil.events import (
    Context,
    DeadLetters,
    EmbeddedEvents,
    Events,
    EventsError,
    IncompatibleSchema,
    InvalidReplacement,
    Message,
    Parallel,
    ParallelRunner,
    Pipeline,
    PipelineRunner,
    RegistryUnavailable,
    Relay,
    Reply,
    ServiceStore,
    Topic,
    UnmappableType,
    attach_schemas,
)
from counterfoil.events.dead_letters import document
from counterfoil.events.schemas import Compatibility, EmbeddedRegistry, Format, Schema, wire
from counterfoil.events.service_store import Command, Unit
from counterfoil.events.topics import declare_schemas

from .payments import FORMATS, PAYMENT, Line, Payment

PATIENCE = 30.0
PAGE = Path(__file__).parents[2] / "docs" / "schemas.md"
each_format = pytest.mark.parametrize("kind", FORMATS)
with_json = pytest.mark.parametrize("kind", ("json", *FORMATS))


def version(*fields: Any) -> Any:
    """A version of the type `Sale`."""
    return msgspec.defstruct("Sale", fields, frozen=True)


V1 = version(("id", int), ("note", str))


def declared(events: Events, event: Any, kind: Format, **more: Any) -> Topic[Any]:
    """The topic of sales, as an application of one version declares it."""
    topic: Topic[Any] = Topic("sales", event, partitions=1, format=kind, **more)
    events.log().declare([topic])
    return topic


def send(events: Events, *values: bytes) -> None:
    log = events.log()
    log.declare([Topic("sales", dict, partitions=1)])
    appender = log.appender("test", 1)
    position = appender.position + 1
    appender.append([Message(n, "sales", "k", v, {}, 1) for n, v in enumerate(values)], position)
    appender.close()


def handled(events: Events, topic: Topic[Any], number: int) -> list[Any]:
    """The next events that a pipeline over the topic is given, once it has handled `number`."""
    seen: list[Any] = []

    def handle(event: Any, _: Context) -> None:
        seen.append(event)

    pipeline = Pipeline("p", topic, handle)
    runner = PipelineRunner(events.log(), events.pipelines(), pipeline, lambda: 1)
    deadline = time.monotonic() + PATIENCE
    done = 0
    while done < number:
        done += runner.step()
        assert time.monotonic() < deadline
    runner.close()
    return seen


@with_json
def test_an_event_goes_from_a_service_to_a_handler_and_on(events: Events, kind: Format) -> None:
    topic = declared(events, Payment, kind)
    onward = Topic("onward", Line, partitions=1, format=kind)
    service = ServiceStore(events.service("shop"), [], next_id=lambda: 7, clock_us=lambda: 1)

    def sell(unit: Unit) -> Reply:
        unit.publish(topic, PAYMENT, key="k")
        return Reply(200, b"", {})

    service.submit(Command("key", b"h", {}, sell)).result(PATIENCE)
    service.close()
    log = events.log()
    log.declare([topic, onward])
    relay = Relay(events.outbox("shop"), log.appender("shop", 1))
    assert relay.step() == 1
    seen: list[Payment] = []

    def handle(event: Payment, context: Context) -> None:
        seen.append(event)
        context.emit(onward, event.first, key="k")

    pipeline = Pipeline("p", topic, handle)
    runner = PipelineRunner(log, events.pipelines(), pipeline, lambda: 1)
    deadline = time.monotonic() + PATIENCE
    while runner.step() == 0:
        assert time.monotonic() < deadline
    runner.close()
    assert seen == [PAYMENT]


@each_format
def test_each_kind_of_garbage_is_a_dead_letter_and_the_rest_goes_on(
    events: Events, kind: Format
) -> None:
    topic = declared(events, V1, kind)
    good = topic.encode(V1(1, "a"))
    send(events, b"", b"\x01" + good[1:], wire.header(4_711) + good[5:], good[:-1], good)
    assert handled(events, topic, 5) == [V1(1, "a")]
    letters = {each.event_id: each.error for each in DeadLetters(events.pipelines()).list()}
    assert sorted(letters) == [0, 1, 2, 3]
    assert "hold no schema id" in letters[0]
    assert "0x01 in place of 0" in letters[1]
    assert "knows no schema 4711" in letters[2]
    assert "no event of schema" in letters[3]


@each_format
def test_a_dead_letter_is_replayed_with_the_schema_that_it_was_written_with(
    events: Events, kind: Format
) -> None:
    topic = declared(events, V1, kind)
    send(events, topic.encode(V1(1, "a")))
    tries: list[Any] = []

    def handle(event: Any, _: Context) -> None:
        tries.append(event)
        if len(tries) == 1:
            raise RuntimeError("not now")

    store = events.pipelines()
    pipeline = Pipeline("p", topic, handle, tries=1)
    runner = PipelineRunner(events.log(), store, pipeline, lambda: 1)
    deadline = time.monotonic() + PATIENCE
    while runner.step() == 0:
        assert time.monotonic() < deadline
    letters = DeadLetters(store)
    letters.replay(letters.list()[0].id, 2)
    if not isinstance(events, EmbeddedEvents):
        relay(events)
    while runner.step() == 0:
        assert time.monotonic() < deadline
    assert tries == [V1(1, "a")] * 2


def relay(events: Events) -> None:
    """What pipelines send reaches Kafka through their outbox."""
    log = events.log()
    topic = Topic("sales", dict, partitions=1)
    log.declare([topic, topic.beside("p.retries"), topic.beside("p.dead-letters")])
    appender = log.appender("_pipelines", 1)
    while Relay(events.outbox("_pipelines"), appender).step():
        continue
    appender.close()


ADDED = version(("id", int), ("note", str), ("tip", int, 5))


@each_format
def test_a_reader_one_version_ahead_fills_in_what_was_not_written(
    events: Events, kind: Format
) -> None:
    send(events, declared(events, V1, kind).encode(V1(1, "a")))
    assert handled(events, declared(events, ADDED, kind), 1) == [ADDED(1, "a", 5)]


@each_format
def test_a_reader_one_version_behind_passes_over_what_it_does_not_know(
    events: Events, kind: Format
) -> None:
    behind = declared(events, V1, kind)
    send(events, declared(events, ADDED, kind).encode(ADDED(1, "a", 7)))
    assert handled(events, behind, 1) == [V1(1, "a")]


@each_format
def test_an_event_without_a_field_that_its_reader_needs_is_a_dead_letter(
    events: Events, kind: Format
) -> None:
    behind = declared(events, V1, kind)
    ahead = declared(events, version(("id", int)), kind)
    send(events, ahead.encode(ahead.type(1)))
    assert handled(events, behind, 1) == []
    assert "`note`" in DeadLetters(events.pipelines()).list()[0].error


def test_a_number_is_read_as_a_wider_one_in_avro(events: Events) -> None:
    wider = version(("id", float), ("note", str))
    send(events, declared(events, V1, "avro").encode(V1(3, "a")))
    assert handled(events, declared(events, wider, "avro"), 1) == [wider(3.0, "a")]


def test_fields_may_move_in_avro_and_keep_their_numbers_in_protobuf(events: Events) -> None:
    moved = version(("note", str), ("id", int))
    send(events, declared(events, V1, "avro").encode(V1(3, "a")))
    assert handled(events, declared(events, moved, "avro"), 1) == [moved("a", 3)]


def numbered(kind: Any, number: int) -> Any:
    return Annotated[kind, msgspec.Meta(extra={"number": number})]


def test_numbers_that_are_given_let_fields_move_in_protobuf(embedded: EmbeddedEvents) -> None:
    moved = version(("note", numbered(str, 2)), ("id", numbered(int, 1)), ("tip", int, 5))
    with pytest.raises(UnmappableType, match="tip: needs a number"):
        declared(embedded, moved, "protobuf")
    moved = version(("note", numbered(str, 2)), ("id", numbered(int, 1)))
    send(embedded, declared(embedded, V1, "protobuf").encode(V1(3, "a")))
    assert handled(embedded, declared(embedded, moved, "protobuf"), 1) == [moved(note="a", id=3)]


@each_format
@pytest.mark.parametrize(
    ("new", "said"),
    [
        (version(("id", int), ("note", str), ("tip", int)), "tip: has no default"),
        (version(("id", str), ("note", str)), "id: was"),
        (version(("id", int), ("note", list[str])), "note: was"),
        (version(("id", int), ("note", Line)), "note: was"),
    ],
)
def test_a_schema_that_breaks_with_the_last_one_is_refused_with_field_and_rule(
    embedded: EmbeddedEvents, kind: Format, new: Any, said: str
) -> None:
    declared(embedded, V1, kind)
    with pytest.raises(IncompatibleSchema, match=rf"topic sales: .*\(BACKWARD\): {said}"):
        declared(embedded, new, kind)
    declared(embedded, V1, kind)  # what is registered may always be gone back to
    declared(embedded, new, kind, compatibility="NONE")


def test_numbers_that_move_with_the_order_of_fields_are_refused_in_protobuf(
    embedded: EmbeddedEvents,
) -> None:
    declared(embedded, V1, "protobuf")
    with pytest.raises(IncompatibleSchema, match="note: number 1 was id and is note"):
        declared(embedded, version(("note", str), ("id", int)), "protobuf")


@pytest.mark.parametrize("compatibility", ["FORWARD", "FULL"])
def test_forward_and_full_ask_for_old_readers_too(
    embedded: EmbeddedEvents, compatibility: Compatibility
) -> None:
    declared(embedded, V1, "avro")
    without = version(("id", int))
    with pytest.raises(IncompatibleSchema, match=rf"\({compatibility}\): note: has no default"):
        declared(embedded, without, "avro", compatibility=compatibility)
    declared(embedded, without, "avro")


def test_a_topic_keeps_its_format(embedded: EmbeddedEvents) -> None:
    declared(embedded, V1, "avro")
    with pytest.raises(IncompatibleSchema, match="was in AVRO, is in PROTOBUF"):
        declared(embedded, V1, "protobuf")


@each_format
def test_processes_that_start_together_agree_on_ids(events: Events, kind: Format) -> None:
    from concurrent.futures import ThreadPoolExecutor

    topics = [Topic(f"t{number % 3}", V1, format=kind) for number in range(12)]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda topic: declare_schemas([topic], events.registry), topics))
    headers = {topic.encode(V1(1, "a"))[:5] for topic in topics}
    assert len(headers) == 1, "equal schemas have one id, whatever their subject"


class Away:
    """A registry that can't be reached for a while."""

    def __init__(self, registry: EmbeddedRegistry) -> None:
        self._registry = registry
        self.away = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._registry, name)

    def schema(self, schema_id: int) -> Schema | None:
        if self.away:
            raise RegistryUnavailable("away")
        return self._registry.schema(schema_id)


@contextmanager
def registry_away(events: EmbeddedEvents) -> Iterator[Away]:
    away = Away(events.registry)  # type: ignore[arg-type]
    events.registry = away  # type: ignore[assignment]
    yield away


@each_format
def test_a_registry_that_is_away_is_no_events_fault(embedded: EmbeddedEvents, kind: Format) -> None:
    with registry_away(embedded) as registry:
        behind = declared(embedded, V1, kind)
        send(embedded, declared(embedded, ADDED, kind).encode(ADDED(1, "a", 7)))
        seen: list[Any] = []
        pipeline = Pipeline("p", behind, lambda event, _: seen.append(event))
        store = embedded.pipelines()
        runner = PipelineRunner(embedded.log(), store, pipeline, lambda: 1)
        registry.away = True
        with pytest.raises(RegistryUnavailable):
            runner.step()
        registry.away = False
        assert runner.step() == 1
    assert (seen, DeadLetters(store).list()) == ([V1(1, "a")], [])


@each_format
def test_a_parallel_pipeline_waits_for_a_registry_that_is_away(
    embedded: EmbeddedEvents, kind: Format
) -> None:
    with registry_away(embedded) as registry:
        behind = declared(embedded, V1, kind)
        send(embedded, declared(embedded, ADDED, kind).encode(ADDED(1, "a", 7)))
        seen: list[Any] = []
        store = embedded.pipelines()
        registry.away = True
        parallel = Parallel("p", behind, seen.append)
        runner = ParallelRunner(embedded.log(), store, parallel, lambda: 1)
        with pytest.raises(RegistryUnavailable):
            until(lambda: runner.step() > 0)
        registry.away = False

        def done() -> bool:
            try:
                return runner.step() > 0
            except RegistryUnavailable:
                return False

        until(done)
        runner.close()
    assert (seen, DeadLetters(store).list()) == ([V1(1, "a")], [])


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline


@each_format
def test_people_see_an_event_as_json_and_replace_it_with_json(
    embedded: EmbeddedEvents, kind: Format
) -> None:
    send(embedded, declared(embedded, V1, kind).encode(V1(1, "a")), b"\0junk")
    store = embedded.pipelines()

    def fail(_: Any, __: Context) -> None:
        raise RuntimeError("poison")

    looked_at: Topic[Any] = Topic("sales", V1, partitions=1, format=kind)
    attach_schemas([looked_at], embedded.registry)  # as the command line and the console do
    PipelineRunner(embedded.log(), store, Pipeline("p", looked_at, fail), lambda: 1).step()
    letters = DeadLetters(store)
    poison, junk = sorted(letters.list(), key=lambda letter: letter.event_id)
    assert document(poison, looked_at)["value"] == msgspec.Raw(b'{"id":1,"note":"a"}')
    assert document(junk, looked_at)["value"] == "\0junk"
    letters.edit(poison.id, b'{"id":2,"note":"b"}', looked_at, 2)
    assert looked_at.decode(letters.show(poison.id).payload) == V1(2, "b")
    letters.edit(junk.id, looked_at.encode(V1(3, "c")), looked_at, 2)
    for wrong in (b'{"id":"x"}', b"\0\0", b'{"id":%d,"note":"a"}' % 2**63, b"\xff"):
        with pytest.raises(InvalidReplacement, match="not an event of sales"):
            letters.edit(junk.id, wrong, looked_at, 3)
    assert document(letters.show(junk.id), looked_at)["replacement"] == msgspec.Raw(
        b'{"id":3,"note":"c"}'
    )


@each_format
def test_looking_on_registers_nothing(embedded: EmbeddedEvents, kind: Format) -> None:
    declared(embedded, V1, kind)
    newer: Topic[Any] = Topic("sales", ADDED, partitions=1, format=kind)
    attach_schemas([newer], embedded.registry)
    with pytest.raises(EventsError, match="no id yet"):
        newer.encode(ADDED(1, "a"))
    assert embedded.registry.find("sales", newer.codec.schema) is None  # type: ignore[attr-defined]


def test_the_example_of_the_page_goes_through_both_formats(embedded: EmbeddedEvents) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(example, str(PAGE), "exec"), names)  # the page's own code
    app, sale = names["app"], names["Sale"]
    embedded.log().declare(app.all_topics())
    event = sale(1, Decimal("12.50"), names["Method"].CARD)
    for topic in (names["sales"], names["refunds"]):
        assert topic.decode(topic.encode(event)) == event
