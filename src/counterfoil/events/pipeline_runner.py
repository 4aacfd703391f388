"""Runs a pipeline: state, ledger, what it emits and its positions in one commit.

A step takes some events from every partition and handles them in one transaction. What handlers do
is held in memory and written together at its end (`effects.py`). What a handler did for an event
that failed is undone; after its last try the event becomes a dead letter in the same commit, and
the partition goes on.

A batch handler gets all events of a step at once. If it fails, its batch is halved until the events
that it can't take are alone, and only these are tried again and become dead letters.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import structlog

from counterfoil import faults
from counterfoil.events.dead_letters import bury
from counterfoil.events.effects import Context, Effects
from counterfoil.events.errors import Fenced, StoreUnavailable
from counterfoil.events.handling import Handling
from counterfoil.events.log import EventLog
from counterfoil.events.messages import Batch, Record
from counterfoil.events.outgoing import StatelessContext
from counterfoil.events.pipeline import Pipeline
from counterfoil.events.pipeline_store import PipelineStore

log = structlog.get_logger()


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
        kind = StatelessContext if pipeline.stateless else Context
        self._handling = Handling(pipeline, self._effects, partial(kind, self._effects), self._bury)
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
        self._handling.run(batches, now_us)
        self._effects.flush()

    def _bury(self, record: Record, error: Exception, tries: int, now_us: int) -> None:
        name = self._pipeline.name
        self._effects.bury(bury(self._store, name, record, error, tries=tries, now_us=now_us))
