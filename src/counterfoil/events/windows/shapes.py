"""Shapes of windows: tumbling, hopping, sessions.

A window includes its start and excludes its end. Tumbling and hopping windows begin at multiples of
their step since 1970 in UTC.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from counterfoil.events.errors import EventsError

OVERLAP: Final = 100
"""Maximum hopping windows of one event, each of which folds it: enough for windows of a day that
begin every quarter of an hour."""
Span = tuple[int, int]
"""The start of a window, and its end, exclusive, in microseconds since 1970."""


@dataclass(frozen=True)
class Tumbling:
    """Consecutive windows of a fixed length: each event is in one."""

    seconds: float

    def __post_init__(self) -> None:
        _check(self, self.seconds)

    def spans(self, time_us: int) -> Sequence[Span]:
        """The windows of an event of that time."""
        length_us = _microseconds(self.seconds)
        start_us = time_us - time_us % length_us
        return [(start_us, start_us + length_us)]


@dataclass(frozen=True)
class Hopping:
    """Windows of a fixed length that begin at a fixed interval, and may overlap."""

    seconds: float
    every_seconds: float

    def __post_init__(self) -> None:
        _check(self, self.seconds)
        _check(self, self.every_seconds)
        if self.every_seconds > self.seconds:
            raise EventsError(f"{self} leaves gaps: events in them would be in no window")
        if self.seconds > OVERLAP * self.every_seconds:
            raise EventsError(
                f"{self} puts an event in more than {OVERLAP} windows",
                hint="let them begin less often",
            )

    def spans(self, time_us: int) -> Sequence[Span]:
        """The windows of an event of that time, the earliest first."""
        length_us, step_us = _microseconds(self.seconds), _microseconds(self.every_seconds)
        last_us = time_us - time_us % step_us
        first_us = last_us - (length_us - 1 - time_us % step_us) // step_us * step_us
        return [(start, start + length_us) for start in range(first_us, last_us + 1, step_us)]


@dataclass(frozen=True)
class Session:
    """Windows that last while events of the key follow each other within a gap.

    A session ends `gap_seconds` of event time after its last event. An event between two sessions
    may merge them.
    """

    gap_seconds: float

    def __post_init__(self) -> None:
        _check(self, self.gap_seconds)

    def spans(self, time_us: int) -> Sequence[Span]:
        """The session that an event of that time alone would make."""
        return [(time_us, time_us + _microseconds(self.gap_seconds))]


Shape = Tumbling | Hopping | Session


def _microseconds(seconds: float) -> int:
    return round(seconds * 1_000_000)


def _check(shape: Shape, seconds: float) -> None:
    if _microseconds(seconds) < 1:
        raise EventsError(f"{shape}: a window lasts for a microsecond at least")
