"""Pipelines: each event handled once, with state, ledger, outputs and offsets in one commit.

A step takes a batch from every partition and handles it in one transaction, each event in a
savepoint of its own. What a handler did for an event that failed is undone; after its last try the
event becomes a dead letter in the same commit, and the partition goes on.
"""

import json
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

import msgspec

from counterfoil import faults
from counterfoil.events.ledger import Ledger
from counterfoil.events.log import EmbeddedLog
from counterfoil.events.messages import Message, Record
from counterfoil.events.sqlite import transaction
from counterfoil.events.topics import Topic

T = TypeVar("T")
BATCH: Final = 1_000
TRACEBACK_LIMIT: Final = 8_000
"""Characters of a traceback that a dead letter keeps."""


@dataclass(frozen=True)
class Pipeline(Generic[T]):
    """A named handler of a topic's events."""

    name: str
    source: Topic[T]
    handler: "Callable[[T, Context], None]"
    tries: int = field(default=3, kw_only=True)


class State:
    """A pipeline's keyed state: bytes by key, committed with the events that changed it."""

    def __init__(self, log: EmbeddedLog, pipeline: str) -> None:
        self._connection = log.connection
        self._pipeline = pipeline

    def get(self, key: str) -> bytes | None:
        """The value under `key`, or None."""
        row = self._connection.execute(
            "SELECT value FROM state WHERE pipeline = ? AND key = ?", (self._pipeline, key)
        ).fetchone()
        return None if row is None else row[0]

    def put(self, key: str, value: bytes) -> None:
        """Set the value under `key`."""
        self._connection.execute(
            "INSERT OR REPLACE INTO state VALUES (?, ?, ?)", (self._pipeline, key, value)
        )

    def delete(self, key: str) -> None:
        """Forget `key`."""
        self._connection.execute(
            "DELETE FROM state WHERE pipeline = ? AND key = ?", (self._pipeline, key)
        )


class Context:
    """What a handler may use; all of it takes effect with the event's commit, or not at all."""

    def __init__(self, log: EmbeddedLog, record: Record, state: State, now_us: int) -> None:
        self.record = record
        self.state = state
        self.ledger = Ledger(log.connection, record, now_us)
        self._log = log
        self._now_us = now_us

    def emit(self, topic: Topic[T], value: T, *, key: str) -> None:
        """Send an event on to another topic; it carries the event id that caused it."""
        headers = {**self.record.headers, "caused-by": str(self.record.event_id)}
        self._log.insert(
            [
                Message(
                    self.record.event_id,
                    topic.name,
                    key,
                    topic.encode(value),
                    headers,
                    self._now_us,
                )
            ]
        )


class PipelineRunner:
    """Runs one pipeline on the embedded log."""

    def __init__(
        self, log: EmbeddedLog, pipeline: Pipeline[Any], now_us: Callable[[], int]
    ) -> None:
        self._log = log
        self._pipeline = pipeline
        self._now_us = now_us
        self._state = State(log, pipeline.name)
        retries = f"{pipeline.name}.retries"
        log.declare([pipeline.source, Topic(retries, pipeline.source.type, partitions=1)])
        self._sources = [
            (pipeline.source.name, number) for number in range(pipeline.source.partitions)
        ] + [(retries, 0)]

    def step(self) -> int:
        """Handle at most a batch from each partition; returns how many events that were."""
        batches = self._fetch()
        if not batches:
            return 0
        if faults.sabotaged("offsets-before-state"):
            with transaction(self._log.connection):
                self._store_offsets(batches)
            faults.point("pipeline.between-commits")
            with transaction(self._log.connection):
                self._handle(batches)
        else:
            with transaction(self._log.connection):
                if self._fetch() != batches:
                    return 0  # a twin was faster: its commit holds these events
                self._handle(batches)
                self._store_offsets(batches)
                faults.point("pipeline.before-commit")
            faults.point("pipeline.after-commit")
        return sum(len(records) for _, records in batches)

    def _fetch(self) -> list[tuple[tuple[str, int], list[Record]]]:
        batches: list[tuple[tuple[str, int], list[Record]]] = []
        for topic, partition in self._sources:
            offset = self._log.committed(self._pipeline.name, topic).get(partition, 0)
            records = self._log.read(topic, partition, offset, BATCH)
            if records:
                batches.append(((topic, partition), records))
        return batches

    def _store_offsets(self, batches: list[tuple[tuple[str, int], list[Record]]]) -> None:
        for (topic, partition), records in batches:
            self._log.store_offsets(self._pipeline.name, topic, {partition: records[-1].offset + 1})

    def _handle(self, batches: list[tuple[tuple[str, int], list[Record]]]) -> None:
        now_us = self._now_us()
        for _, records in batches:
            for record in records:
                self._handle_one(record, now_us)

    def _handle_one(self, record: Record, now_us: int) -> None:
        connection = self._log.connection
        for attempt in range(1, self._pipeline.tries + 1):
            connection.execute("SAVEPOINT event")
            try:
                event = self._pipeline.source.decode(record.value)
                self._pipeline.handler(event, Context(self._log, record, self._state, now_us))
            except Exception as error:
                connection.execute("ROLLBACK TO event")
                connection.execute("RELEASE event")
                undecodable = isinstance(error, msgspec.DecodeError | UnicodeDecodeError)
                if undecodable or attempt == self._pipeline.tries:
                    self._bury(record, error, attempt, now_us)
                    return
            else:
                connection.execute("RELEASE event")
                return

    def _bury(self, record: Record, error: Exception, tries: int, now_us: int) -> None:
        trace = "".join(traceback.format_exception(error))[-TRACEBACK_LIMIT:]
        self._log.connection.execute(
            "INSERT INTO dead_letters (pipeline, topic, partition, offset, event_id, key, value, "
            "headers, error, traceback, tries, failed_us) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                self._pipeline.name,
                record.topic,
                record.partition,
                record.offset,
                record.event_id,
                record.key,
                record.value,
                json.dumps(record.headers),
                f"{type(error).__name__}: {error}",
                trace,
                tries,
                now_us,
            ),
        )
