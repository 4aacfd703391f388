"""Pipelines: each event handled once, with state, ledger, outputs and positions in one commit.

A step takes some events from every partition and handles them in one transaction. What handlers do
is held in memory and written together at its end (`effects.py`). What a handler did for an event
that failed is undone; after its last try the event becomes a dead letter in the same commit, and
the partition goes on.

A batch handler gets all events of a step at once. If it fails, its batch is halved until the events
that it can't take are alone, and only these are tried again and become dead letters.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

import msgspec
import structlog

from counterfoil import faults
from counterfoil.events.dead_letters import bury, dead_letter_topic, retry_topic
from counterfoil.events.effects import Context, Effects
from counterfoil.events.errors import Fenced, StoreUnavailable
from counterfoil.events.log import EventLog
from counterfoil.events.messages import Batch, Record
from counterfoil.events.pipeline_store import PipelineStore
from counterfoil.events.topics import AnyTopic, Topic

T = TypeVar("T")
BATCH: Final = 1_000
log = structlog.get_logger()


@dataclass(frozen=True)
class Pipeline(Generic[T]):
    """A named handler of a topic's events."""

    name: str
    source: Topic[T]
    handler: Callable[..., None]
    """Takes an event and its context; a batch handler takes a list of such pairs."""
    tries: int = field(default=3, kw_only=True)
    batch: bool = field(default=False, kw_only=True)
    commit_limit: int = field(default=BATCH, kw_only=True)
    """How many events of each partition one commit takes at most."""

    def topics(self) -> list[AnyTopic]:
        """The source, and what belongs to this pipeline alone: its retries and dead letters."""
        event = self.source.type
        return [
            self.source,
            Topic(retry_topic(self.name), event, partitions=1),
            Topic(dead_letter_topic(self.name), event, partitions=1),
        ]


class PipelineRunner:
    """Runs one pipeline; a twin may run beside it, and handles nothing twice."""

    def __init__(
        self,
        event_log: EventLog,
        store: PipelineStore,
        pipeline: Pipeline[Any],
        now_us: Callable[[], int],
    ) -> None:
        self._store = store
        self._pipeline = pipeline
        self._now_us = now_us
        self._effects = Effects(store, pipeline.name)
        self._commits = 0
        topics = pipeline.topics()
        event_log.declare(topics)
        self._reader = event_log.reader(
            topics[:2], lambda topic: store.positions(pipeline.name, topic)
        )

    def step(self) -> int:
        """Handle at most a batch from each partition; returns how many events that were.

        Raises:
            StoreUnavailable, LogUnavailable: nothing was handled; a later step may.
        """
        batches = self._reader.fetch(self._pipeline.commit_limit)
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
        try:
            try:
                self._attempt(batches, alone=False)
            except (Fenced, StoreUnavailable):
                raise
            except Exception as error:
                log.info("events_are_handled_alone", pipeline=self._pipeline.name, why=str(error))
                self._effects.forget()
                self._attempt(batches, alone=True)
        except BaseException:
            self._effects.forget()
            raise
        faults.point("pipeline.after-commit")

    def _attempt(self, batches: list[Batch], *, alone: bool) -> None:
        transaction = self._store.database.transaction
        if faults.sabotaged("offsets-before-state"):
            with transaction():
                self._store.advance(self._pipeline.name, batches)
            faults.point("pipeline.between-commits")
            with transaction():
                self._handle(batches, alone=alone)
            return
        with transaction():
            number = self._store.count_commit(self._pipeline.name)
            if number != self._commits + 1:
                self._effects.forget()
            self._store.advance(self._pipeline.name, batches)
            self._handle(batches, alone=alone)
            faults.point("pipeline.before-commit")
        self._commits = number

    def _handle(self, batches: list[Batch], *, alone: bool) -> None:
        now_us = self._now_us()
        self._effects.begin(alone=alone)
        effects, decode = self._effects, self._pipeline.source.decode
        pairs: list[tuple[Any, Context]] = []
        for batch in batches:
            for record in batch.records:
                try:
                    event = decode(record.value)
                except (msgspec.DecodeError, UnicodeDecodeError) as error:
                    self._bury(record, error, 1, now_us)
                    continue
                context = Context(effects, record, now_us)
                if self._pipeline.batch:
                    pairs.append((event, context))
                else:
                    self._handle_one(context, event, context)
        if pairs:
            self._handle_some(pairs)
        effects.flush()

    def _handle_some(self, pairs: list[tuple[Any, Context]]) -> None:
        if len(pairs) == 1:
            self._handle_one(pairs[0][1], pairs)
            return
        try:
            self._effects.handle(self._pipeline.handler, pairs)
        except StoreUnavailable:
            raise
        except Exception:
            half = len(pairs) // 2
            self._handle_some(pairs[:half])
            self._handle_some(pairs[half:])

    def _handle_one(self, context: Context, *arguments: Any) -> None:
        attempt = 0
        while True:
            attempt += 1
            try:
                self._effects.handle(self._pipeline.handler, *arguments)
            except StoreUnavailable:
                raise  # not this event's fault
            except Exception as error:
                undecodable = isinstance(error, msgspec.DecodeError | UnicodeDecodeError)
                if undecodable or attempt == self._pipeline.tries:
                    self._bury(context.record, error, attempt, context.now_us)
                    return
            else:
                return

    def _bury(self, record: Record, error: Exception, tries: int, now_us: int) -> None:
        name = self._pipeline.name
        self._effects.bury(bury(self._store, name, record, error, tries=tries, now_us=now_us))
