"""Pipelines: each event handled once, with state, ledger, outputs and positions in one commit.

A step takes a batch from every partition and handles it in one transaction, each event in a
savepoint of its own. What a handler did for an event that failed is undone; after its last try the
event becomes a dead letter in the same commit, and the partition goes on.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

import msgspec

from counterfoil import faults
from counterfoil.events.dead_letters import bury, dead_letter_topic, retry_topic
from counterfoil.events.errors import Fenced, StoreUnavailable
from counterfoil.events.ledger import Ledger
from counterfoil.events.log import EventLog
from counterfoil.events.messages import Batch, Message, Record
from counterfoil.events.pipeline_store import PipelineStore
from counterfoil.events.topics import AnyTopic, Topic

T = TypeVar("T")
BATCH: Final = 1_000


@dataclass(frozen=True)
class Pipeline(Generic[T]):
    """A named handler of a topic's events."""

    name: str
    source: Topic[T]
    handler: "Callable[[T, Context], None]"
    tries: int = field(default=3, kw_only=True)

    def topics(self) -> list[AnyTopic]:
        """The source, and what belongs to this pipeline alone: its retries and dead letters."""
        event = self.source.type
        return [
            self.source,
            Topic(retry_topic(self.name), event, partitions=1),
            Topic(dead_letter_topic(self.name), event, partitions=1),
        ]


class State:
    """A pipeline's keyed state: bytes by key, committed with the events that changed it."""

    def __init__(self, store: PipelineStore, pipeline: str) -> None:
        self._database = store.database
        self._pipeline = pipeline

    def get(self, key: str) -> bytes | None:
        """The value under `key`, or None."""
        row = self._database.execute(
            "SELECT value FROM state WHERE pipeline = ? AND key = ?", (self._pipeline, key)
        ).fetchone()
        return None if row is None else row[0]

    def put(self, key: str, value: bytes) -> None:
        """Set the value under `key`."""
        self._database.execute(
            "INSERT INTO state VALUES (?, ?, ?) ON CONFLICT (pipeline, key) "
            "DO UPDATE SET value = excluded.value",
            (self._pipeline, key, value),
        )

    def delete(self, key: str) -> None:
        """Forget `key`."""
        self._database.execute(
            "DELETE FROM state WHERE pipeline = ? AND key = ?", (self._pipeline, key)
        )


class Context:
    """What a handler may use; all of it takes effect with the event's commit, or not at all."""

    def __init__(self, store: PipelineStore, record: Record, state: State, now_us: int) -> None:
        self.record = record
        self.state = state
        self.ledger = Ledger(store.database, record, now_us)
        self.sent: list[Message] = []
        self._now_us = now_us

    def emit(self, topic: Topic[T], value: T, *, key: str) -> None:
        """Send an event on to another topic; it carries the event id that caused it."""
        headers = {**self.record.headers, "caused-by": str(self.record.event_id)}
        content = topic.encode(value)
        self.sent.append(
            Message(self.record.event_id, topic.name, key, content, headers, self._now_us)
        )


class PipelineRunner:
    """Runs one pipeline; a twin may run beside it, and handles nothing twice."""

    def __init__(
        self,
        log: EventLog,
        store: PipelineStore,
        pipeline: Pipeline[Any],
        now_us: Callable[[], int],
    ) -> None:
        self._store = store
        self._pipeline = pipeline
        self._now_us = now_us
        self._state = State(store, pipeline.name)
        topics = pipeline.topics()
        log.declare(topics)
        self._reader = log.reader(topics[:2], lambda topic: store.positions(pipeline.name, topic))

    def step(self) -> int:
        """Handle at most a batch from each partition; returns how many events that were.

        Raises:
            StoreUnavailable, LogUnavailable: nothing was handled; a later step may.
        """
        batches = self._reader.fetch(BATCH)
        if not batches:
            return 0
        try:
            self._commit(batches)
        except Fenced:
            self._reader.rewind()
            return 0
        except BaseException:
            self._reader.rewind()
            raise
        return sum(len(batch.records) for batch in batches)

    def close(self) -> None:
        """Stop reading."""
        self._reader.close()

    def _commit(self, batches: list[Batch]) -> None:
        transaction = self._store.database.transaction
        if faults.sabotaged("offsets-before-state"):
            with transaction():
                self._store.advance(self._pipeline.name, batches)
            faults.point("pipeline.between-commits")
            with transaction():
                self._handle(batches)
            return
        with transaction():
            self._store.advance(self._pipeline.name, batches)
            self._handle(batches)
            faults.point("pipeline.before-commit")
        faults.point("pipeline.after-commit")

    def _handle(self, batches: list[Batch]) -> None:
        now_us = self._now_us()
        sent: list[Message] = []
        for batch in batches:
            for record in batch.records:
                sent += self._handle_one(record, now_us)
        if sent:
            self._store.send(sent)

    def _handle_one(self, record: Record, now_us: int) -> list[Message]:
        """What the event sends on: what its handler emitted, or itself as a dead letter."""
        attempt = 0
        while True:
            attempt += 1
            context = Context(self._store, record, self._state, now_us)
            try:
                with self._store.database.transaction():
                    self._pipeline.handler(self._pipeline.source.decode(record.value), context)
                    return context.sent
            except StoreUnavailable:
                raise  # not this event's fault
            except Exception as error:
                undecodable = isinstance(error, msgspec.DecodeError | UnicodeDecodeError)
                if undecodable or attempt == self._pipeline.tries:
                    name = self._pipeline.name
                    return [bury(self._store, name, record, error, tries=attempt, now_us=now_us)]
