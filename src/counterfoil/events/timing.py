"""Watermarks and due timers within a pipeline's commits.

A commit handles its events, advances the watermark, and fires due timers, at most `FIRED` of each
clock, all in one transaction. While more timers of event time are due, the next commits take no
events: all timers of a moment fire before events that are read after it. The state cached here is
valid only until another process writes.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

from counterfoil.events.effects import Effects
from counterfoil.events.errors import Contended
from counterfoil.events.event_time import (
    NEVER,
    Watermark,
    store_watermark,
    stored_watermarks,
    watermark_elsewhere,
)
from counterfoil.events.handling import Handling
from counterfoil.events.messages import Batch, Record
from counterfoil.events.pipeline import Pipeline
from counterfoil.events.pipeline_store import PipelineStore
from counterfoil.events.shares import ALL, Share
from counterfoil.events.timers import Clock, Timer

FIRED: Final = 1_000
"""Maximum timers of one clock in a commit: as many as events of a partition."""
LOOK_US: Final = 1_000_000
"""Interval of asking the database when the next timer is due, while nothing is committed: another
process may have set one, for instance by replaying a dead letter."""


class Timing:
    """Timers and watermark of `pipeline`, whose handlers write to `effects`."""

    def __init__(
        self,
        store: PipelineStore,
        pipeline: Pipeline[Any],
        effects: Effects,
        share: Share = ALL,
    ) -> None:
        self._database = store.database
        self._share = share
        self._name = pipeline.name
        self._first: dict[str, int] = {}
        """The number of each source's first partition, as the watermark counts them."""
        partitions = 0
        for source in pipeline.sources:
            self._first[source.name] = partitions
            partitions += source.partitions
        self._effects = effects
        self._event_time = pipeline.event_time
        self._watermark: Watermark | None = None
        if self._event_time is not None:
            self._watermark = Watermark(
                self._event_time, partitions, share, pipeline.source.partitions
            )
        self._known = False
        """Whether the cached watermark and next timers match the database."""
        self._earliest: dict[Clock, int] = {}
        self._asked_us = NEVER
        self._fired_us = NEVER
        """The processing time up to which timers were last fired."""
        self._told: frozenset[int] | None = frozenset()
        """The partitions last reported to other processes as idle; None if unknown."""
        self._told_us = self._heard_us = NEVER

    @property
    def behind(self) -> bool:
        """Whether timers are left that were due with the last commit.

        Raises:
            StoreUnavailable: the database can't be read.
        """
        self._know()
        return (
            self._watermark is not None and self._is_due("event", self._watermark.value_us)
        ) or self._is_due("processing", self._fired_us)

    def due(
        self, batches: Sequence[Batch] | None, now_us: int, *, exhaustive: bool = False
    ) -> bool:
        """Whether a commit is due even without events: for timers, or to report idle partitions.

        `batches` is the result of a fetch from the source; None if there was no fetch.

        Raises:
            StoreUnavailable: the database can't be read.
        """
        self._ask(now_us)
        if self._watermark is None:
            return self._is_due("processing", now_us)
        if batches is not None:
            heard = {
                self._first[batch.topic] + batch.partition
                for batch in batches
                if batch.topic in self._first
            }
            self._watermark.look(heard, now_us, exhaustive=exhaustive)
        if self._share.of > 1 and _is_over(self._heard_us, now_us):
            self._hear(now_us)
        return (
            self._is_due("processing", now_us)
            or self._is_due("event", self._watermark.current_us())
            or self._has_to_tell(now_us)
        )

    def begin(self, now_us: int) -> None:
        """A transaction has begun.

        Raises:
            StoreUnavailable: the database can't be read.
        """
        self._know()
        if self._share.of > 1:
            self._hear(now_us)
        self._effects.timers.begin()
        self._effects.not_over_us = None
        if self._watermark is not None:
            self._effects.watermark_us = self._watermark.value_us

    def observe(self, record: Record, event: Any, now_us: int) -> None:
        """Record an event's time before it is handled; an exception here fails the event."""
        if self._watermark is None or self._event_time is None:
            return
        time_us = self._event_time.time_of(event)
        first = self._first.get(record.topic)
        if first is not None:  # a retry is late, and doesn't advance the watermark
            self._watermark.observe(first + record.partition, time_us, now_us)

    def fire(self, handling: Handling, now_us: int) -> int:
        """Fire due timers, in the commit's transaction, and write all effects; returns how many.

        Raises:
            StoreUnavailable: the database can't be used.
        """
        effects, watermark = self._effects, self._watermark
        # Only timers: other writes take locks, in a fixed order, at the end of the commit.
        effects.timers.flush()
        fired = 0
        if watermark is not None:
            value_us = watermark.current_us()
            effects.watermark_us = watermark.value_us = value_us
            store_watermark(self._database, self._name, watermark, self._share, now_us)
            self._told, self._told_us = watermark.idle, now_us
            fired = self._fire(handling, "event", value_us, now_us)
            effects.timers.flush()
        fired += self._fire(handling, "processing", now_us, now_us)
        effects.finish()
        self._check_not_over()
        self._ask(now_us)
        self._fired_us = now_us
        return fired

    def undo(self) -> None:
        """The commit has failed: continue from what is stored."""
        self._known = False
        self._told = None

    def forget(self) -> None:
        """Another process has written, and may have read events that this one has not."""
        self.undo()
        if self._watermark is not None:
            self._watermark.listen_again()

    def _know(self) -> None:
        if self._known:
            return
        if self._watermark is not None:
            self._watermark.restore(stored_watermarks(self._database, self._name))
        self._earliest = self._effects.timers.earliest()
        self._known = True

    def _hear(self, now_us: int) -> None:
        """Merge what the other processes have committed."""
        if self._watermark is not None:
            stored = stored_watermarks(self._database, self._name, self._share, now_us)
            self._watermark.restore(stored)
            self._heard_us = now_us

    def _has_to_tell(self, now_us: int) -> bool:
        """Whether other processes must be told of this one's idle partitions."""
        if self._share.of == 1 or self._watermark is None:
            return False
        idle = self._watermark.idle
        return idle != self._told or (bool(idle) and _is_over(self._told_us, now_us))

    def _check_not_over(self) -> None:
        """Check that `is_over` results of this commit's handlers are still valid.

        Raises:
            Contended: another process has moved the watermark past them.
        """
        first_us = self._effects.not_over_us
        if self._share.of == 1 or first_us is None:
            return
        moved_us = watermark_elsewhere(self._database, self._name, self._share)
        if moved_us >= first_us:
            raise Contended(f"{self._name}: another process has moved the watermark")

    def _ask(self, now_us: int) -> None:
        if self._effects.timers.changed or _is_over(self._asked_us, now_us):
            self._earliest = self._effects.timers.earliest()
            self._asked_us = now_us

    def _is_due(self, clock: Clock, until_us: int) -> bool:
        earliest_us = self._earliest.get(clock)
        return earliest_us is not None and earliest_us <= until_us

    def _fire(self, handling: Handling, clock: Clock, until_us: int, now_us: int) -> int:
        self._ask(now_us)
        if not self._is_due(clock, until_us):
            return 0
        due = self._effects.timers.due(clock, until_us, FIRED)
        fired = 0
        while fired < FIRED and (timer := due.next()) is not None:
            take = self._taker(timer)
            if not handling.fire(timer, now_us, take):
                self._effects.handle(take)  # it is a dead letter now, and must not fire again
            fired += 1
        return fired

    def _taker(self, timer: Timer) -> Callable[[], None]:
        return lambda: self._effects.timers.cancel(timer.key, timer.name)


def _is_over(looked_us: int, now_us: int) -> bool:
    """Whether `LOOK_US` have passed, or the clock was set back."""
    return not 0 <= now_us - looked_us < LOOK_US
