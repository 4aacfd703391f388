"""Runs a stateless pipeline in the log's own transactions, without a database.

The log commits positions and emitted events together. So emitted events need no outbox, and the
pipeline goes on while the database is unavailable. A separate thread then reports to the database:
the pipeline's positions, for `lag`, and its dead letters. The first of the pipeline's processes
reads these back from their topic, with their own position, so that each is listed once.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, Final

import structlog

from counterfoil.events.dead_letters.burial import keep, letter
from counterfoil.events.errors import Fenced, LogUnavailable, StoreUnavailable, TermOver
from counterfoil.events.handling import Handling
from counterfoil.events.log import ExchangeLog
from counterfoil.events.messages import Batch, Record
from counterfoil.events.outgoing import Outgoing, StatelessContext
from counterfoil.events.pipeline import Pipeline
from counterfoil.events.pipeline_store import PipelineStore
from counterfoil.events.shares import ALL, Share

TELL_US: Final = 1_000_000
"""Interval of reports to the database: what is displayed may be a second old."""
LETTERS: Final = 100
log = structlog.get_logger()


def letters_collector(pipeline: str) -> str:
    """The consumer whose position tells which dead letters of a stateless pipeline are listed."""
    return f"{pipeline}.letters"


class LogPipelineRunner:
    """One term of one share of a pipeline: it ends earlier terms, and any error ends it."""

    def __init__(
        self,
        event_log: ExchangeLog,
        store: PipelineStore,
        pipeline: Pipeline[Any],
        now_us: Callable[[], int],
        share: Share = ALL,
    ) -> None:
        self._store = store
        self._share = share
        self._pipeline = pipeline
        self._now_us = now_us
        self._telling = ThreadPoolExecutor(1, thread_name_prefix=f"telling {pipeline.name}")
        self._told: Future[None] | None = None
        self._told_us = 0
        self._over = False
        self._outgoing = Outgoing(pipeline.name, event_log.check)
        context = partial(StatelessContext, self._outgoing)
        self._handling = Handling(pipeline, self._outgoing, context, self._bury)
        topics = pipeline.topics()
        event_log.declare(topics)
        self._collector = letters_collector(pipeline.name)
        self._letters = event_log.reader(
            topics[2:], lambda topic: store.positions(self._collector, topic)
        )
        self._exchange = event_log.exchange(pipeline.name, topics[:2], share)

    def step(self) -> int:
        """Handle at most a commit's events; returns their number.

        They are committed while the next ones are read; the next step waits for the commit.

        Raises:
            TermOver: another term has begun (`Fenced`), the log can't be used, or the outcome of a
                commit is unknown. No further step is possible.
        """
        if self._over:
            raise TermOver(f"pipeline {self._pipeline.name}: this term has ended with an error")
        self._over = True  # unless all goes well: after an error, a step would skip these events
        handled = self._step()
        self._over = False
        return handled

    def _step(self) -> int:
        batches = self._exchange.fetch(self._pipeline.commit_limit)
        now_us = self._now_us()
        if batches:
            self._handling.run(batches, now_us)
            self._exchange.commit(batches, self._outgoing.take())
        else:
            self._exchange.settle()
        told_now = 0 <= now_us - self._told_us < TELL_US  # unless the clock was set back
        if not told_now and (self._told is None or self._told.done()):
            if self._told is not None:
                self._told.result()
            self._told = self._telling.submit(self._tell, dict(self._exchange.positions))
            self._told_us = now_us
        return sum(len(batch.records) for batch in batches)

    def close(self) -> None:
        """End the term; a commit in progress may still succeed."""
        self._exchange.close()
        self._telling.shutdown()
        self._letters.close()

    def _bury(self, record: Record, error: Exception, tries: int, now_us: int) -> None:
        name = self._pipeline.name
        self._outgoing.bury(letter(name, record, error, tries=tries, now_us=now_us))

    def _tell(self, positions: dict[tuple[str, int], int]) -> None:
        """Report to the database; if it is unavailable, the next report catches up."""
        name = self._pipeline.name
        try:
            for topic in {topic for topic, _ in positions}:
                moved = {number: end for (each, number), end in positions.items() if each == topic}
                self._store.store_positions(name, topic, moved)
            while self._share.number == 0 and (batches := self._letters.fetch(LETTERS)):
                with self._store.database.transaction():
                    self._store.advance(self._collector, batches)
                    foreign = sum(keep(self._store, name, each.records) for each in batches)
                if foreign:
                    self._tell_of_foreign(foreign, batches)
        except (Fenced, LogUnavailable, StoreUnavailable) as error:
            self._letters.rewind()
            log.warning("database_was_not_told", pipeline=name, error=str(error))

    def _tell_of_foreign(self, number: int, batches: list[Batch]) -> None:
        log.warning(
            "records_on_the_dead_letter_topic_that_are_no_letters_were_passed_over",
            topic=batches[0].topic,
            records=number,
            between={f"{each.partition}": f"{each.start} to {each.end - 1}" for each in batches},
            hint="let nobody but the pipeline's own user write there",
        )
