"""Runs a pipeline: state, ledger, what it emits and its positions in one commit.

A step takes some events from every partition and handles them in one transaction. What handlers do
is held in memory and written together at its end (`effects.py`). What a handler did for an event
that failed is undone; after its last try the event becomes a dead letter in the same commit, and
the partition goes on.

A pipeline with timers fires in the same commit what is due by then, and commits without events when
nothing but time has passed (`timing.py`). Rows of its tables come first in a commit (`rows.py`).

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
from counterfoil.events.pipeline_reader import PipelineReader
from counterfoil.events.pipeline_store import PipelineStore
from counterfoil.events.timing import Timing

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
        if pipeline.check is not None:
            pipeline.check()
        self._store = store
        self._pipeline = pipeline
        self._now_us = now_us
        self._effects = Effects(
            store, pipeline.name, clocks=pipeline.clocks, tables=pipeline.tables
        )
        self._commits = store.last_commit(pipeline.name)
        self._timing: Timing | None = None
        if pipeline.timer is not None or pipeline.event_time is not None:
            self._timing = Timing(store, pipeline, self._effects)
        kind = StatelessContext if pipeline.stateless else Context
        self._handling = Handling(
            pipeline,
            self._effects,
            partial(kind, self._effects),
            self._bury,
            None if self._timing is None else self._timing.observe,
        )
        topics = pipeline.topics()
        event_log.declare([*pipeline.tables, *topics])
        self._reader = PipelineReader(
            event_log,
            pipeline.tables,
            topics[:2],
            lambda topic: store.positions(pipeline.name, topic),
        )

    def step(self) -> int:
        """Handle at most a batch from each partition, and fire the timers that are due.

        Returns how many events and timers that were.

        Raises:
            StoreUnavailable, LogUnavailable: nothing was handled; a later step may.
        """
        batches, due, now_us = self._next()
        if not batches and not due:
            return 0
        try:
            fired = self._commit(batches, now_us)
        except Fenced:
            self._reader.rewind()
            return 0
        except BaseException:
            self._reader.rewind()
            raise
        return sum(len(batch.records) for batch in batches) + fired

    def close(self) -> None:
        """Stop reading."""
        self._reader.close()

    def _next(self) -> tuple[list[Batch], bool, int]:
        """What to handle next, whether timers are due, and the time in microseconds."""
        limit, timing = self._pipeline.commit_limit, self._timing
        if timing is None:
            batches = self._reader.fetch(limit)
            return batches, False, self._now_us()
        if timing.behind:
            return [], True, self._now_us()
        batches = self._reader.fetch(limit)
        now_us = self._now_us()
        heard = None if self._reader.preparing else batches
        return batches, timing.due(heard, now_us, exhaustive=self._reader.exhaustive), now_us

    def _commit(self, batches: list[Batch], now_us: int) -> int:
        try:
            try:
                fired = self._attempt(batches, now_us, alone=False)
            except (Fenced, StoreUnavailable):
                raise
            except Exception as error:
                log.info("events_are_handled_alone", pipeline=self._pipeline.name, why=str(error))
                self._undo()
                fired = self._attempt(batches, now_us, alone=True)
        except BaseException:
            self._undo()
            raise
        faults.point("pipeline.after-commit")
        return fired

    def _attempt(self, batches: list[Batch], now_us: int, *, alone: bool) -> int:
        transaction = self._store.database.transaction
        if faults.sabotaged("offsets-before-state"):
            with transaction():
                self._store.advance(self._pipeline.name, batches)
            faults.point("pipeline.between-commits")
            with transaction():
                return self._handle(batches, now_us, alone=alone)
        with transaction():
            number = self._store.count_commit(self._pipeline.name)
            if number != self._commits + 1:
                self._effects.forget()
                if self._timing is not None:
                    self._timing.forget()
            self._store.advance(self._pipeline.name, batches)
            fired = self._handle(batches, now_us, alone=alone)
            faults.point("pipeline.before-commit")
        self._commits = number
        return fired

    def _handle(self, batches: list[Batch], now_us: int, *, alone: bool) -> int:
        """Do what is to be done in the transaction; returns how many timers were fired."""
        self._effects.begin(alone=alone)
        if self._timing is not None:
            self._timing.begin()
        self._handling.run(batches, now_us)
        if self._timing is not None:
            return self._timing.fire(self._handling, now_us)
        self._effects.flush()
        return 0

    def _undo(self) -> None:
        self._effects.forget()
        if self._timing is not None:
            self._timing.undo()

    def _bury(self, record: Record, error: Exception, tries: int, now_us: int) -> None:
        name = self._pipeline.name
        self._effects.bury(bury(self._store, name, record, error, tries=tries, now_us=now_us))
