"""Choreography: a saga without a coordinator, traced by its events.

Each participant is a pipeline: it handles an event and emits the next one, or one that makes its
predecessors compensate. Every hop is exactly once already, but no coordinator knows a saga's
progress and whether it has ended. A tracer derives that from the events alone: those of one saga
share its id, as `context.emit` keeps the id of the causing event.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from counterfoil.events.errors import EventsError, Fenced
from counterfoil.events.identity import identity_in
from counterfoil.events.log import EventLog
from counterfoil.events.messages import Batch, Record
from counterfoil.events.pipeline_store import PipelineStore
from counterfoil.events.sagas.instances import Direction, Forgetting, Instance, Instances
from counterfoil.events.sagas.saga import RETENTION_SECONDS
from counterfoil.events.storable import storable
from counterfoil.events.topics import AnyTopic

BATCH: Final = 500
End = Literal["completed", "compensated"]


@dataclass(frozen=True)
class Sign:
    """What an event of a topic means for its saga."""

    step: str
    direction: Direction
    outcome: str
    ends: End | None


@dataclass
class Choreography:
    """A saga by events alone; each event of `source` starts an instance with the event's id."""

    name: str
    source: AnyTopic
    timeout_seconds: float = field(kw_only=True)
    """An instance that has not ended in this time is stuck, until an event ends it after all."""
    retention_seconds: float = field(default=RETENTION_SECONDS, kw_only=True)
    signs: dict[AnyTopic, Sign] = field(default_factory=dict[AnyTopic, Sign], init=False)

    def tells(
        self,
        topic: AnyTopic,
        step: str,
        outcome: Literal["done", "refused", "undone"] = "done",
        *,
        ends: End | None = None,
    ) -> None:
        """Declare what an event of `topic` means: a step was done, refused, or undone.

        `ends` is the status with which this event ends the saga.
        """
        if topic in self.signs or topic == self.source:
            raise EventsError(f"topic {topic.name} tells of two things", hint="use two topics")
        undone = outcome == "undone"
        self.signs[topic] = Sign(
            step, "undo" if undone else "do", "done" if undone else outcome, ends
        )

    @property
    def consumer(self) -> str:
        """The name under which its positions are stored."""
        return f"saga.{self.name}"


class ChoreographyTracer:
    """Writes the timelines of a choreography; duplicates may run beside it."""

    def __init__(
        self,
        log: EventLog,
        store: PipelineStore,
        choreography: Choreography,
        now_us: Callable[[], int],
    ) -> None:
        self._store = store
        self._choreography = choreography
        self._now_us = now_us
        self._instances = Instances(store.database)
        self._signs = {topic.name: sign for topic, sign in choreography.signs.items()}
        self._forgetting = Forgetting(
            self._instances, choreography.name, choreography.retention_seconds
        )
        topics: list[Any] = [choreography.source, *choreography.signs]
        consumer = choreography.consumer
        log.declare(topics)
        store.begin(consumer, topics, log)
        self._reader = log.reader(topics, lambda topic: store.positions(consumer, topic))

    def step(self) -> int:
        """Record new events and instances that time out; returns how many.

        Raises:
            StoreUnavailable, LogUnavailable: nothing was recorded; try again later.
        """
        forgotten = self._forgetting.step(self._now_us())
        batches = self._reader.fetch(BATCH)
        now_us = self._now_us()
        if not batches and not self._instances.due(
            self._choreography.name, now_us, 1, heard_us=now_us
        ):
            return forgotten
        try:
            return self._commit(batches, now_us)
        except Fenced:
            self._reader.rewind()
            return 0
        except BaseException:
            self._reader.rewind()
            raise

    def close(self) -> None:
        """Stop reading."""
        self._reader.close()

    def _commit(self, batches: list[Batch], now_us: int) -> int:
        with self._store.database.transaction():
            self._store.advance(self._choreography.consumer, batches)
            records = list(itertools.chain.from_iterable(batch.records for batch in batches))
            for record in records:
                self._note(record)
            late = self._instances.due(self._choreography.name, now_us, BATCH, heard_us=now_us)
            for instance in late:
                error = f"not ended in {self._choreography.timeout_seconds} s"
                instance.status, instance.wake_us = "stuck", None
                self._instances.note(instance, instance.step, "overdue", at_us=now_us, error=error)
                self._instances.save(instance)
        return len(records) + len(late)

    def _note(self, record: Record) -> None:
        """Record an event; topics are read in no common order, so it may precede its source."""
        number = self._number_of(record)
        if number is None:
            return
        instance = self._instances.find(self._choreography.name, number)
        if instance is None:
            instance = self._new(number, record)
            self._instances.add(instance)
        sign = self._signs.get(record.topic)
        if sign is None:
            instance.key, instance.started_us = storable(record.key), record.timestamp_us
            sign = Sign(record.topic, "do", "begun", None)
        self._instances.note(
            instance, sign.step, sign.outcome, at_us=record.timestamp_us, direction=sign.direction
        )
        if sign.outcome != "begun":
            instance.step = sign.step
        if sign.ends is not None:
            instance.status, instance.ended_us = sign.ends, record.timestamp_us
            instance.wake_us = None
        elif instance.ended_us is None and (sign.direction == "undo" or sign.outcome == "refused"):
            instance.status = "compensating"
        self._instances.save(instance)

    def _number_of(self, record: Record) -> int | None:
        """The saga of an event: the header `saga-id`, else its cause (`caused-by`) or own id.

        Of several events that a handler emits to one topic, only the first keeps the cause's id.
        None if a foreign producer wrote an invalid id.
        """
        own = str(record.event_id)
        if record.topic in self._signs:
            own = record.headers.get("caused-by", own)
        return identity_in(record.headers.get("saga-id", own))

    def _new(self, number: int, record: Record) -> Instance:
        timeout_us = int(self._choreography.timeout_seconds * 1_000_000)
        return Instance(
            saga=self._choreography.name,
            id=number,
            style="choreography",
            status="running",
            step=record.topic,
            tries=0,
            waiting=False,
            wake_us=record.timestamp_us + timeout_us,
            deadline_us=record.timestamp_us + timeout_us,
            lines=0,
            error="",
            started_us=record.timestamp_us,
            ended_us=None,
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            key=storable(record.key),
            value=record.value,
            headers=record.headers,
            timestamp_us=record.timestamp_us,
        )
