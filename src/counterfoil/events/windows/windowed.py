"""A windowed pipeline: events are folded into windows, which close once.

A window is part of the pipeline's keyed state (`open_windows.py`) and has a timer of event time at
which it closes. Both are committed with the position of the event. When the timer fires, the window
is removed from the state in the commit of its effects: so a closed window takes no space, and can't
close twice.

An event is late for a window that has closed. If it is late for all of its windows, it is counted,
and goes to a topic of late events if one is declared.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import reduce
from typing import Any, Generic, Literal, TypeVar

import msgspec

from counterfoil.events.effects import Context
from counterfoil.events.errors import EventsError
from counterfoil.events.event_time import EventTime
from counterfoil.events.handlers import check_handler
from counterfoil.events.lateness import count_late
from counterfoil.events.pipeline import BATCH, Pipeline
from counterfoil.events.timers import Timer
from counterfoil.events.topics import Topic
from counterfoil.events.windows.open_windows import OpenWindows, Window
from counterfoil.events.windows.shapes import Session, Shape

T = TypeVar("T")
S = TypeVar("S")
Emit = Literal["close", "update"]


@dataclass
class Windowed(Generic[T, S]):
    """A named pipeline that folds the events of a topic into windows, by key."""

    name: str
    source: Topic[T]
    shape: Shape
    state: type[S]
    """A struct whose fields have defaults; `state()` is the state of an empty window."""
    fold: Callable[[S, T], S]
    """Adds an event to a window's state; may modify and return its argument."""
    event_time: EventTime[T] = field(kw_only=True)
    key: Callable[[T], str] | None = field(default=None, kw_only=True)
    """The key whose windows an event belongs to; by default, the record's key."""
    lateness_seconds: float = field(default=0.0, kw_only=True)
    """How long after its end, in event time, a window stays open for late events."""
    late: Topic[T] | None = field(default=None, kw_only=True)
    """The topic for events whose windows have all closed."""
    emit: Emit = field(default="close", kw_only=True)
    """When effects run: once a window has closed, or after each event as well."""
    tries: int = field(default=3, kw_only=True)
    commit_limit: int = field(default=BATCH, kw_only=True)
    effects: Callable[[Window[S], Context], None] | None = field(default=None, init=False)
    merged: Callable[[S, S], S] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        check_handler(self.name, self.fold)
        if self.lateness_seconds < 0:
            raise EventsError(f"{self.name}: lateness must not be negative")
        try:
            msgspec.msgpack.encode(self.state())
        except TypeError as error:
            raise EventsError(
                f"{self.name}: {self.state.__name__} can't hold the state of a window: {error}",
                hint="use a msgspec.Struct whose fields all have defaults",
            ) from error
        self._decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(
            list[tuple[int, int, self.state]]  # pyright: ignore[reportInvalidTypeForm]
        )
        self._lateness_us = round(self.lateness_seconds * 1_000_000)

    def then(
        self, effects: Callable[[Window[S], Context], None]
    ) -> Callable[[Window[S], Context], None]:
        """Declare the effects of a window: exactly once when it closes."""
        if self.effects is not None:
            raise EventsError(f"{self.name} has two functions for its windows", hint="join them")
        check_handler(self.name, effects)
        self.effects = effects
        return effects

    def merge(self, merged: Callable[[S, S], S]) -> Callable[[S, S], S]:
        """Declare how the states of two sessions are merged that an event between them joins.

        It gets the earlier session first. Its result must not depend on the order in which events
        came, or the windows' results would too.
        """
        check_handler(self.name, merged)
        self.merged = merged
        return merged

    def pipeline(self) -> Pipeline[T]:
        """The pipeline that runs it, with event time and timers."""
        return Pipeline(
            self.name,
            self.source,
            self._take,
            tries=self.tries,
            commit_limit=self.commit_limit,
            timer=self._close,
            event_time=self.event_time,
            check=self._check,
        )

    def _check(self) -> None:
        if self.effects is None:
            raise EventsError(
                f"the windows of {self.name} lead to nothing",
                hint="declare what is done with one: @NAME.then",
            )
        if isinstance(self.shape, Session) and self.merged is None:
            raise EventsError(
                f"nobody knows what two sessions of {self.name} are together",
                hint="declare it: @NAME.merge",
            )

    def _take(self, event: T, context: Context) -> None:
        """Fold an event into its windows."""
        key = context.record.key if self.key is None else self.key(event)
        windows = OpenWindows[S](self._decoder, context, key)
        time_us = self.event_time.time_of(event)
        join = self._join_session if isinstance(self.shape, Session) else self._join
        told = [
            found
            for start_us, end_us in self.shape.spans(time_us)
            if (found := join(windows, start_us, end_us, event)) is not None
        ]
        if not told:
            count_late(context)
            if self.late is not None:
                context.emit(self.late, event, key=context.record.key)
            return
        windows.write()
        if self.emit == "update":
            for start_us in told:
                self._tell(windows.window(start_us, final=False), context)

    def _join(self, windows: "OpenWindows[S]", start_us: int, end_us: int, event: T) -> int | None:
        """Fold an event into a window of fixed length; returns its start, None if it has closed."""
        closes_us = end_us + self._lateness_us
        if windows.context.is_over(closes_us):
            return None
        _, state = windows.get(start_us) or (end_us, None)
        if state is None:
            state = self.state()
            windows.close_at(start_us, closes_us)
        windows.put(start_us, end_us, self.fold(state, event))
        return start_us

    def _join_session(
        self, windows: "OpenWindows[S]", start_us: int, end_us: int, event: T
    ) -> int | None:
        """Fold an event into a session, which it may start, extend, or merge from others."""
        joined = windows.overlapping(start_us, end_us)
        before = {start: end for start, end, _ in joined}
        start_us = min([start_us, *before])
        end_us = max([end_us, *before.values()])
        closes_us = end_us + self._lateness_us
        if windows.context.is_over(closes_us):
            return None
        states = [state for _, _, state in joined] or [self.state()]
        for start in before:
            windows.take(start)
            if start != start_us:
                windows.never_close(start)
        if before.get(start_us) != end_us:
            windows.close_at(start_us, closes_us)
        merged = states[0] if len(states) == 1 else reduce(self._merged(), states)
        windows.put(start_us, end_us, self.fold(merged, event))
        return start_us

    def _close(self, timer: Timer, context: Context) -> None:
        """Close a window whose timer has fired: remove it, and run its effects."""
        windows = OpenWindows[S](self._decoder, context, timer.key)
        start_us = int(timer.name)
        found = windows.get(start_us)
        if found is None:
            return  # the timer's dead letter was replayed, and the window has closed since
        closes_us = found[0] + self._lateness_us
        if closes_us > timer.at_us:
            # It has grown, or the declared length or lateness has increased since it began.
            windows.close_at(start_us, closes_us)
            return
        window = windows.window(start_us, final=True)
        windows.take(start_us)
        windows.write()
        self._tell(window, context)

    def _tell(self, window: Window[S], context: Context) -> None:
        if self.effects is not None:
            self.effects(window, context)

    def _merged(self) -> Callable[[S, S], S]:
        assert self.merged is not None, "it is checked before the pipeline runs"
        return self.merged
