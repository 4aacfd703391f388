"""Runs a pipeline: commits state, ledger, emitted events and positions together.

A step takes some events from every partition and handles them in one transaction. Handlers' effects
are buffered in memory and written together at its end (`effects.py`). The effects of a failed try
are discarded; after its last try the event becomes a dead letter in the same commit, and the
partition goes on.

A pipeline with timers fires due timers in the same commit, and commits without events if only time
has passed (`timing.py`). Rows of its tables come first in a commit (`rows.py`).

A pipeline may run in several processes, each with a share of the partitions. Each commit first
checks that its process may commit (`terms.py`). One that finds at its end that another process has
changed what it read is rolled back and retried once, with the others locked out.

A batch handler gets all events of a step at once. If it fails, its batch is halved until the
failing events are alone; only these are retried and become dead letters.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import structlog

from counterfoil import faults
from counterfoil.events import rows
from counterfoil.events.dead_letters import bury
from counterfoil.events.effects import Context, Effects
from counterfoil.events.errors import Contended, Fenced, StoreUnavailable
from counterfoil.events.handling import Handling
from counterfoil.events.log import EventLog
from counterfoil.events.messages import Batch, Record
from counterfoil.events.outgoing import StatelessContext
from counterfoil.events.pipeline import Pipeline
from counterfoil.events.pipeline_reader import PipelineReader
from counterfoil.events.pipeline_store import PipelineStore
from counterfoil.events.shares import ALL, Share
from counterfoil.events.terms import Term
from counterfoil.events.timing import Timing

log = structlog.get_logger()


class PipelineRunner:
    """Runs a share of a pipeline; even if duplicates run beside it, nothing is handled twice."""

    def __init__(
        self,
        event_log: EventLog,
        store: PipelineStore,
        pipeline: Pipeline[Any],
        now_us: Callable[[], int],
        share: Share = ALL,
    ) -> None:
        if pipeline.check is not None:
            pipeline.check()
        pipeline.check_processes(share.of)
        self._store = store
        self._pipeline = pipeline
        self._share = share
        self._now_us = now_us
        self._effects = Effects(
            store,
            pipeline.name,
            clocks=pipeline.clocks,
            tables=pipeline.tables,
            partitions=pipeline.source.partitions,
            share=share,
        )
        self._term = Term(store.database, pipeline.name, share)
        self._timing: Timing | None = None
        if pipeline.timer is not None or pipeline.event_time is not None:
            self._timing = Timing(store, pipeline, self._effects, share)
        kind = StatelessContext if pipeline.stateless else Context
        self._handling = Handling(
            pipeline,
            self._effects,
            partial(kind, self._effects),
            self._bury,
            None if self._timing is None else self._timing.observe,
            share=share,
        )
        topics = pipeline.topics()
        event_log.declare([*pipeline.tables, *pipeline.sources, *topics[1:]])
        store.begin(pipeline.name, pipeline.sources, event_log)
        self._reader = PipelineReader(
            store.log or event_log,
            pipeline.tables,
            [*pipeline.sources, topics[1]],
            self._positions,
            share,
        )
        if pipeline.tables:
            with store.database.transaction():
                self._term.enter()
                rows.drop_copies(store.database, pipeline.name, pipeline.tables, share.of)
            self._term.committed()
            store.begin(f"{pipeline.name}{share.name}", pipeline.tables, event_log)

    def step(self) -> int:
        """Handle at most a batch from each partition, and fire the timers that are due.

        Returns the number of events and timers.

        Raises:
            StoreUnavailable, LogUnavailable: nothing was handled; try again later.
            Superseded: the pipeline runs in another number of processes; don't try again.
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
        alone = exclusive = False
        while True:
            try:
                fired = self._attempt(batches, now_us, alone=alone, exclusive=exclusive)
            except Contended:
                self._undo(too_late=not exclusive)
                if exclusive:
                    raise
                exclusive = True
            except (Fenced, StoreUnavailable):
                self._undo()
                raise
            except Exception as error:
                self._undo()
                if alone:
                    raise
                log.info("events_are_handled_alone", pipeline=self._pipeline.name, why=str(error))
                alone = True
            except BaseException:
                self._undo()
                raise
            else:
                break
        faults.point("pipeline.after-commit")
        return fired

    def _attempt(self, batches: list[Batch], now_us: int, *, alone: bool, exclusive: bool) -> int:
        transaction = self._store.database.transaction
        if faults.sabotaged("offsets-before-state"):
            with transaction():
                self._advance(batches)
            faults.point("pipeline.between-commits")
            with transaction():
                return self._handle(batches, now_us, alone=alone)
        with transaction():
            if self._term.enter(alone=exclusive):
                self._effects.forget()
                if self._timing is not None:
                    self._timing.forget()
            self._advance(batches)
            fired = self._handle(batches, now_us, alone=alone)
            faults.point("pipeline.before-commit")
        self._term.committed()
        return fired

    def _consumer(self, topic: str) -> str:
        """The consumer that holds a topic's positions: of tables, each process has its own."""
        name = self._pipeline.name
        return f"{name}{self._share.name}" if topic in self._effects.tables else name

    def _positions(self, topic: str) -> Mapping[int, int]:
        return self._store.positions(self._consumer(topic), topic)

    def _advance(self, batches: list[Batch]) -> None:
        for consumer in {self._consumer(batch.topic) for batch in batches}:
            moved = [batch for batch in batches if self._consumer(batch.topic) == consumer]
            self._store.advance(consumer, moved)

    def _handle(self, batches: list[Batch], now_us: int, *, alone: bool) -> int:
        """Handle events and timers in the transaction; returns how many timers fired."""
        self._effects.begin(alone=alone)
        if self._timing is not None:
            self._timing.begin(now_us)
        self._handling.run(batches, now_us)
        if self._timing is not None:
            return self._timing.fire(self._handling, now_us)
        self._effects.finish()
        return 0

    def _undo(self, *, too_late: bool = False) -> None:
        if too_late:
            self._effects.doubt()
        else:
            self._effects.forget()
        if self._timing is not None:
            self._timing.undo()

    def _bury(self, record: Record, error: Exception, tries: int, now_us: int) -> None:
        name, record = self._pipeline.name, self._pipeline.buried(record)
        if rows.is_buried(record) and self._share.number:
            return  # each process reads this row; only the first reports it
        self._effects.bury(bury(self._store, name, record, error, tries=tries, now_us=now_us))
