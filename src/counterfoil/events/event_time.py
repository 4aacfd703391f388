"""Event time: how far a pipeline knows that the events are all there.

Each partition's newest event, less the disorder that is allowed, says that nothing older comes from
there. The watermark is the minimum over the partitions (Akidau et al., "The Dataflow Model", 2015).
It is stored with each commit that moves it, and never goes back.

A partition that has no events would hold it back for ever. One from which nothing came for
`idle_seconds` is left out; when all are idle, the furthest one counts. Silence is counted only
while somebody listens: from the first look of this process on, and on Kafka, where a fetch that
brings nothing doesn't say that there is nothing, at most `LISTENING_US` for each look. A process
that was stopped for an hour finds an hour's events, not an hour of silence.

`Watermark` is pure: it is told what was read, and when.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

import msgspec

from counterfoil.events.database import Database
from counterfoil.events.errors import EventsError

T = TypeVar("T")
NEVER: Final = -(1 << 62)
"""The watermark before there is one."""
IDLE_SECONDS: Final = 60.0
"""Longer than a relay takes to be led again, or a broker to be elected."""
AHEAD_SECONDS: Final = 86_400.0
"""Longer than clocks are wrong by a time zone, shorter than one that is wrong by a year."""
LISTENING_US: Final = 1_000_000
SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS watermarks (
    pipeline TEXT PRIMARY KEY, watermark_us INTEGER NOT NULL,
    newest BLOB NOT NULL) STRICT, WITHOUT ROWID;
"""


@dataclass(frozen=True)
class EventTime(Generic[T]):
    """When events of a topic happened, and how far out of order they come."""

    of: Callable[[T], int]
    """The time of an event, in microseconds since 1970."""
    disorder_seconds: float = field(default=0.0, kw_only=True)
    """An event is not late if it comes after events that are newer by no more than this."""
    idle_seconds: float | None = field(default=IDLE_SECONDS, kw_only=True)
    """A partition without events for so long doesn't hold back the others; None: for ever."""
    advance_when_idle: bool = field(default=False, kw_only=True)
    """Whether event time goes on with the clock once all partitions are idle.

    The last windows then close without an event that comes after them. In return, what a service
    could not send for longer than `idle_seconds` is late when it comes."""
    ahead_seconds: float | None = field(default=AHEAD_SECONDS, kw_only=True)
    """An event that is further ahead of the clock doesn't move the watermark: one producer with a
    wrong clock would make everybody's events late. None: all do."""

    def __post_init__(self) -> None:
        for name in ("disorder_seconds", "idle_seconds", "ahead_seconds"):
            value: float | None = getattr(self, name)
            if value is not None and value < 0:
                raise EventsError(f"{name} must not be negative, and is {value}")

    def time_of(self, event: T) -> int:
        """The time of an event, in microseconds since 1970.

        Raises:
            TypeError, ValueError: `of` gives what is no such time. And what `of` raises.
        """
        time_us = self.of(event)
        if not isinstance(time_us, int):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"an event's time is whole microseconds, not {type(time_us).__name__}")
        if abs(time_us) >= -NEVER:  # else no database could keep it, and nobody's commit succeed
            raise ValueError(f"{time_us} is no time in microseconds")
        return time_us


class Watermark:
    """The watermark of a source with so many `partitions`."""

    def __init__(self, event_time: EventTime[T], partitions: int) -> None:
        self._disorder_us = round(event_time.disorder_seconds * 1_000_000)
        self._idle_us = _microseconds(event_time.idle_seconds)
        self._ahead_us = _microseconds(event_time.ahead_seconds)
        self._advance_when_idle = event_time.advance_when_idle
        self.value_us = NEVER
        """As it was committed last."""
        self.newest_us: dict[int, int] = {}
        """The newest event of each partition, with those of the commit at work."""
        self._silent_us = [0] * partitions
        self._looked_us: int | None = None

    def restore(self, value_us: int, newest_us: dict[int, int]) -> None:
        """Go on from what is stored."""
        self.value_us = value_us
        self.newest_us = newest_us

    def look(self, heard: Collection[int], now_us: int, *, exhaustive: bool) -> None:
        """Somebody has looked for events, and `heard` from some partitions.

        `exhaustive` says that there were none in the others.
        """
        passed = 0 if self._looked_us is None else max(now_us - self._looked_us, 0)
        if not exhaustive:
            passed = min(passed, LISTENING_US)
        self._looked_us = now_us
        for partition in range(len(self._silent_us)):
            silent = 0 if partition in heard else self._silent_us[partition] + passed
            self._silent_us[partition] = silent

    def listen_again(self) -> None:
        """Nobody has listened: whatever was silent may have spoken."""
        self._looked_us = None
        self._silent_us = [0] * len(self._silent_us)

    def observe(self, partition: int, time_us: int, now_us: int) -> None:
        """An event of that time has come from a partition."""
        if self._ahead_us is not None and time_us > now_us + self._ahead_us:
            return
        if time_us > self.newest_us.get(partition, NEVER):
            self.newest_us[partition] = time_us

    def current_us(self) -> int:
        """The watermark by all that was seen: no earlier than the committed one."""
        idle_us, newest = self._idle_us, self.newest_us
        silent = self._silent_us
        active = [
            number for number, quiet in enumerate(silent) if idle_us is None or quiet < idle_us
        ]
        if any(number not in newest for number in active) or not newest:
            return self.value_us
        if active:
            found = min(newest[number] for number in active)
        else:
            found = max(newest.values())
            if self._advance_when_idle:
                found += min(silent) - (idle_us or 0)
        return max(self.value_us, found - self._disorder_us)


def stored_watermark(database: Database, pipeline: str) -> tuple[int, dict[int, int]]:
    """The watermark of a pipeline, and each partition's newest event, as last committed.

    Raises:
        StoreUnavailable: the database can't be asked.
    """
    row: tuple[int, bytes] | None = database.execute(
        "SELECT watermark_us, newest FROM watermarks WHERE pipeline = ?", (pipeline,)
    ).fetchone()
    if row is None:
        return NEVER, {}
    return row[0], msgspec.json.decode(row[1], type=dict[int, int])


def store_watermark(
    database: Database, pipeline: str, value_us: int, newest_us: dict[int, int]
) -> None:
    """Store it in the caller's transaction."""
    database.execute(
        "INSERT INTO watermarks VALUES (?, ?, ?) ON CONFLICT (pipeline) DO UPDATE "
        "SET watermark_us = excluded.watermark_us, newest = excluded.newest",
        (pipeline, value_us, msgspec.json.encode(newest_us)),
    )


def _microseconds(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1_000_000)
