"""A pipeline over two topics: events of a key with close event times become pairs.

Events wait in the pipeline's keyed state (`waiting.py`). Both sides of a key are one entry, so that
two processes which get one event each can't miss the pair: the second to commit finds that the
entry has changed. Each event has a timer of event time, after which no partner can come. The pair's
effects, waiting events, timers and the positions of both topics are one commit.

There is one watermark over the partitions of both topics: if one topic is behind, the other's
events wait for it and take space. An event is late if its waiting time is over when it arrives; it
is counted like late events of windows.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Generic, Literal, TypeVar

import msgspec

from counterfoil.events.effects import Context
from counterfoil.events.errors import EventsError
from counterfoil.events.event_time import EventTime
from counterfoil.events.handlers import check_handler
from counterfoil.events.joins.waiting import Entry, Waiting
from counterfoil.events.lateness import count_late
from counterfoil.events.pipeline import BATCH, Pipeline
from counterfoil.events.state import OWN
from counterfoil.events.timers import Timer
from counterfoil.events.topics import Topic

L = TypeVar("L")
R = TypeVar("R")
Kind = Literal["inner", "left", "outer"]
_ALONE: Final[dict[Kind, frozenset[bool]]] = {
    "inner": frozenset(),
    "left": frozenset({False}),
    "outer": frozenset({False, True}),
}
"""The sides whose events go to the handler alone if they had no partner; True is the right one."""
_ENTRIES: Final = msgspec.msgpack.Decoder(list[Entry])


@dataclass
class Joined(Generic[L, R]):
    """A named pipeline that pairs the events of two topics, by key."""

    name: str
    left: Topic[L]
    right: Topic[R]
    handler: Callable[..., None]
    """Called once for each pair: with the left and right event, of which one may be None, and the
    context."""
    within_seconds: float = field(kw_only=True)
    """The maximum distance in event time of a pair, in either order."""
    event_time: EventTime[L | R] = field(kw_only=True)
    kind: Kind = field(default="inner", kw_only=True)
    key: Callable[[L | R], str] | None = field(default=None, kw_only=True)
    """The key to join by; by default, the record's key."""
    lateness_seconds: float = field(default=0.0, kw_only=True)
    """How much longer events wait, in event time, for late partners."""
    late_left: Topic[L] | None = field(default=None, kw_only=True)
    late_right: Topic[R] | None = field(default=None, kw_only=True)
    """The topics for late events of each side."""
    tries: int = field(default=3, kw_only=True)
    commit_limit: int = field(default=BATCH, kw_only=True)

    def __post_init__(self) -> None:
        check_handler(self.name, self.handler)
        for name in ("within_seconds", "lateness_seconds"):
            if getattr(self, name) < 0:
                raise EventsError(f"{self.name}: {name} must not be negative")
        if self.kind not in _ALONE:
            raise EventsError(
                f"{self.name}: there is no join of the kind {self.kind!r}",
                hint=f"say one of {', '.join(_ALONE)}",
            )
        self._pipeline: Pipeline[Any] = Pipeline(
            self.name,
            self.left,
            self._take,
            joined=self.right,
            tries=self.tries,
            commit_limit=self.commit_limit,
            timer=self._close,
            event_time=self.event_time,
        )

    def pipeline(self) -> Pipeline[Any]:
        """The pipeline that runs it, over both topics, with event time and timers."""
        return self._pipeline

    def _take(self, event: Any, context: Context) -> None:
        """Pair an event with waiting partners, and add it to the waiting events."""
        record = context.record
        right = self._pipeline.stream_of(record) is self.right
        place = f"{record.topic}/{record.partition}/{record.offset}/{record.event_id}"
        entry = Entry(right, place, self.event_time.time_of(event), record.value)
        key = record.key if self.key is None else self.key(event)
        waiting = self._waiting(context, key)
        closes_us = waiting.closes_us(entry)
        if context.is_over(closes_us):
            count_late(context)
            late: Topic[Any] | None = self.late_right if right else self.late_left
            if late is not None:
                context.emit(late, event, key=record.key)
            return
        partners = waiting.meet(entry, context.is_over)
        self._write(context, key, waiting)
        context.timers.set(place, closes_us, key=key)
        for partner in partners:
            if right:
                self.handler(self.left.decode(partner.value), event, context)
            else:
                self.handler(event, self.right.decode(partner.value), context)

    def _close(self, timer: Timer, context: Context) -> None:
        """Remove an event whose waiting time is over; call the handler if it had no partner."""
        waiting = self._waiting(context, timer.key)
        entry = waiting.take(timer.name)
        if entry is None:
            return  # the timer's dead letter was replayed after the pipeline was forgotten
        self._write(context, timer.key, waiting)
        if entry.met or entry.right not in _ALONE[self.kind]:
            return
        if entry.right:
            self.handler(None, self.right.decode(entry.value), context)
        else:
            self.handler(self.left.decode(entry.value), None, context)

    def _waiting(self, context: Context, key: str) -> Waiting:
        kept = context.state.get(_place(key))
        return Waiting(
            [] if kept is None else _ENTRIES.decode(kept),
            within_us=round(self.within_seconds * 1_000_000),
            lateness_us=round(self.lateness_seconds * 1_000_000),
        )

    def _write(self, context: Context, key: str, waiting: Waiting) -> None:
        """Write the waiting events to the state; delete the entry if there are none."""
        if waiting.entries:
            context.state.put(_place(key), msgspec.msgpack.encode(waiting.entries))
        else:
            context.state.delete(_place(key))


def _place(key: str) -> str:
    return f"{OWN}join {key}"
