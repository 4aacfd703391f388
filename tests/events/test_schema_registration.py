"""Two new schemas of one topic at the same instant: the second is held against the first.

In the tables of either engine, and in a registry whose API can't be told what came before.
"""

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Barrier, Thread
from typing import Any

import pytest

from counterfoil.engines import RunningEngine
from counterfoil.events import (
    ConfluentRegistry,
    EmbeddedEvents,
    Events,
    IncompatibleSchema,
    KafkaEvents,
    RegistryUnavailable,
    Topic,
)
from counterfoil.events.schemas import Format, Registry, Schema, wire
from counterfoil.events.topics import declare_schemas

from .payments import FORMATS
from .test_schemas import ADDED, V1, version

# Each is compatible with `V1`. What these two call `tip`, one can't read of the other.
OTHER = version(("id", int), ("note", str), ("tip", str, ""))
MORE = version(("id", int), ("note", str), ("tip", int, 5), ("table", int, 0))
each_format = pytest.mark.parametrize("kind", FORMATS)


class Overtaken:
    """A registry in which somebody else registers right after each look at the newest version."""

    def __init__(self, registry: Registry, overtake: Callable[[], object]) -> None:
        self._registry = registry
        self._overtake = overtake
        self.find, self.schema, self.register = registry.find, registry.schema, registry.register

    def latest(self, topic: str) -> Schema | None:
        """The version that was the newest a moment ago."""
        found = self._registry.latest(topic)
        self._overtake()
        return found


def declare(registry: Registry, event: Any, kind: Format) -> Topic[Any]:
    topic: Topic[Any] = Topic("sales", event, partitions=1, format=kind)
    declare_schemas([topic], registry)
    return topic


@pytest.fixture(params=["sqlite", "postgres"])
def shared(
    request: pytest.FixtureRequest, tmp_path: Path, engine: Callable[[str], RunningEngine]
) -> Iterator[Registry]:
    """A real registry, with the lock of either engine."""
    name = f"app-{uuid.uuid4().hex}"
    registry = ConfluentRegistry(engine("registry").address, None, name)
    if request.param == "sqlite":
        yield EmbeddedEvents(tmp_path, registry=registry).registry
        return
    postgres = engine("postgres")
    yield KafkaEvents(
        "127.0.0.1:1", postgres.address, postgres.secret, name, registry=registry
    ).registry


@pytest.mark.parametrize("first", [None, V1])
def test_in_a_registry_too_a_schema_that_breaks_with_one_of_the_same_instant_is_refused(
    shared: Registry, first: Any
) -> None:
    refuse_the_second(shared, "avro", first)


def test_in_a_registry_too_processes_that_start_at_once_are_held_against_each_other(
    shared: Registry,
) -> None:
    assert len(refused_at_once(shared)) == 1


@each_format
@pytest.mark.parametrize("first", [None, V1])
def test_a_schema_that_breaks_with_one_of_the_same_instant_is_refused(
    events: Events, kind: Format, first: Any
) -> None:
    refuse_the_second(events.registry, kind, first)


def refuse_the_second(registry: Registry, kind: Format, first: Any) -> None:
    if first is not None:
        declare(registry, first, kind)
    overtaken = Overtaken(registry, lambda: declare(registry, ADDED, kind))
    with pytest.raises(IncompatibleSchema, match="tip"):
        declare(overtaken, OTHER, kind)
    added = declare(registry, ADDED, kind)
    value = added.encode(ADDED(1, "a", 7))
    assert declare(registry, MORE, kind).decode(value) == MORE(1, "a", 7, 0)


@each_format
def test_a_schema_that_is_compatible_with_it_becomes_the_newest(
    events: Events, kind: Format
) -> None:
    registry = events.registry
    declare(registry, V1, kind)
    more = declare(Overtaken(registry, lambda: declare(registry, ADDED, kind)), MORE, kind)
    newest = registry.latest("sales")
    assert newest is not None
    value = more.encode(MORE(1, "a"))
    assert registry.find("sales", newest) == wire.schema_id_of(value)
    assert declare(registry, ADDED, kind).decode(value) == ADDED(1, "a", 5)


def test_of_processes_that_start_at_once_one_registers_and_the_others_are_held_against_it(
    events: Events,
) -> None:
    assert len(refused_at_once(events.registry)) == 1


def refused_at_once(registry: Registry) -> list[IncompatibleSchema]:
    barrier = Barrier(2)
    declare(registry, V1, "avro")
    refused: list[IncompatibleSchema] = []

    def start(event: Any) -> None:
        # Both have looked before either registers; what comes then is up to the database.
        waiting = iter([barrier.wait])
        overtaken = Overtaken(registry, lambda: next(waiting, lambda: 0)())
        try:
            declare(overtaken, event, "avro")
        except IncompatibleSchema as error:
            refused.append(error)

    threads = [Thread(target=start, args=(event,)) for event in (ADDED, OTHER)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return refused


def test_whoever_is_overtaken_again_and_again_gives_up_and_may_come_back(
    embedded: EmbeddedEvents,
) -> None:
    registry = embedded.registry
    names = (f"extra{number}" for number in range(1_000))
    fields: list[Any] = [("id", int), ("note", str)]

    def overtake() -> None:
        fields.append((next(names), int, 0))
        declare(registry, version(*fields), "avro")

    with pytest.raises(RegistryUnavailable, match="one schema after another"):
        declare(Overtaken(registry, overtake), ADDED, "avro")
    declare(registry, ADDED, "avro")
