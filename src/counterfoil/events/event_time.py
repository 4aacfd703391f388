"""Event time: watermarks, without I/O.

Each partition is assumed to yield nothing older than its newest event less the allowed disorder.
The watermark is the minimum over the partitions (Akidau et al., "The Dataflow Model", 2015). It is
stored with each commit that moves it, and never goes back.

A partition without events would hold it back for ever. So one that was idle for `idle_seconds` is
left out; when all are idle, the furthest one counts. Idle time counts only while the process reads:
from its first fetch on and, on Kafka, where an empty fetch doesn't mean that there is nothing, at
most `LISTENING_US` for each fetch. A process that was stopped for an hour finds an hour's events,
not an hour of idleness.

A pipeline in several processes has one watermark too: a key of windows or state may get events from
any partition. Each process stores the times of its own partitions, and takes the minimum over all.
It reports repeatedly which of its partitions are idle, and a report is valid for `BELIEVED_US`:
while a process is dead, its partitions hold the watermark as active ones do.

`Watermark` does no I/O: callers pass in what was read, and when.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Final, Generic, NamedTuple, TypeVar

import msgspec

from counterfoil.events.database import Database
from counterfoil.events.errors import EventsError
from counterfoil.events.shares import ALL, Share

T = TypeVar("T")
NEVER: Final = -(1 << 62)
"""The watermark before the first event."""
IDLE_SECONDS: Final = 60.0
"""Longer than a relay's failover or the election of a broker takes."""
AHEAD_SECONDS: Final = 86_400.0
"""More than a wrong time zone, less than a clock that is wrong by a year."""
LISTENING_US: Final = 1_000_000
BELIEVED_US: Final = 5_000_000
"""Several times the interval of a process's reports, to allow for differing clocks."""
SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS watermarks (
    pipeline TEXT NOT NULL, process INTEGER NOT NULL, processes INTEGER NOT NULL,
    watermark_us INTEGER NOT NULL, newest BLOB NOT NULL, idle BLOB NOT NULL,
    told_us INTEGER NOT NULL, PRIMARY KEY (pipeline, process)) STRICT, WITHOUT ROWID;
"""


@dataclass(frozen=True)
class EventTime(Generic[T]):
    """How to get the time of a topic's events, and how far out of order they may arrive."""

    of: Callable[[T], int]
    """The time of an event, in microseconds since 1970."""
    disorder_seconds: float = field(default=0.0, kw_only=True)
    """An event is not late if it comes after events that are newer by at most this."""
    idle_seconds: float | None = field(default=IDLE_SECONDS, kw_only=True)
    """A partition without events for so long no longer holds the watermark back; None: never."""
    advance_when_idle: bool = field(default=False, kw_only=True)
    """Whether event time follows the clock once all partitions are idle.

    The last windows then close without a later event. In return, events that a service could not
    send for longer than `idle_seconds` are late when they come."""
    ahead_seconds: float | None = field(default=AHEAD_SECONDS, kw_only=True)
    """An event further ahead of the clock doesn't move the watermark: otherwise one producer with a
    wrong clock would make all other events late. None: all do."""

    def __post_init__(self) -> None:
        for name in ("disorder_seconds", "idle_seconds", "ahead_seconds"):
            value: float | None = getattr(self, name)
            if value is not None and value < 0:
                raise EventsError(f"{name} must not be negative, and is {value}")

    def time_of(self, event: T) -> int:
        """The time of an event, in microseconds since 1970.

        Raises:
            TypeError, ValueError: `of` returns no valid time. Also raises what `of` raises.
        """
        time_us = self.of(event)
        if not isinstance(time_us, int):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"an event's time is whole microseconds, not {type(time_us).__name__}")
        if abs(time_us) >= -NEVER:  # the database could not store it, and every commit would fail
            raise ValueError(f"{time_us} is no time in microseconds")
        return time_us


class Watermark:
    """The watermark over `partitions`, of which this process reads a `share`.

    The partitions of several sources are numbered consecutively, `each` of them having so many; by
    default there is one source. `each` is not used in a single process.
    """

    def __init__(
        self,
        event_time: EventTime[T],
        partitions: int,
        share: Share = ALL,
        each: int | None = None,
    ) -> None:
        self._disorder_us = round(event_time.disorder_seconds * 1_000_000)
        self._idle_us = _microseconds(event_time.idle_seconds)
        self._ahead_us = _microseconds(event_time.ahead_seconds)
        self._advance_when_idle = event_time.advance_when_idle
        self.value_us = NEVER
        """The last committed watermark."""
        self.newest_us: dict[int, int] = {}
        """The newest event of each partition, including the current commit's."""
        heard = (number for number in range(partitions) if share.has(number % (each or partitions)))
        self._silent_us = dict.fromkeys(heard, 0)
        self._elsewhere = frozenset(range(partitions)) - self._silent_us.keys()
        """The partitions that other processes read."""
        self._active_elsewhere = self._elsewhere
        self._looked_us: int | None = None

    @property
    def idle(self) -> frozenset[int]:
        """The idle ones of the partitions that this process reads."""
        idle_us = self._idle_us
        if idle_us is None:
            return frozenset()
        return frozenset(each for each, quiet in self._silent_us.items() if quiet >= idle_us)

    def restore(self, stored: "Stored") -> None:
        """Continue from what is stored."""
        self.value_us = stored.value_us
        self.newest_us = stored.newest_us
        self._active_elsewhere = self._elsewhere - stored.idle

    def look(self, heard: Collection[int], now_us: int, *, exhaustive: bool) -> None:
        """Record a fetch that got events of the partitions `heard`.

        `exhaustive` means that there were none in the others.
        """
        passed = 0 if self._looked_us is None else max(now_us - self._looked_us, 0)
        if not exhaustive:
            passed = min(passed, LISTENING_US)
        self._looked_us = now_us
        for partition, silent in self._silent_us.items():
            self._silent_us[partition] = 0 if partition in heard else silent + passed

    def listen_again(self) -> None:
        """Reset idle times: events may have come while this process didn't read."""
        self._looked_us = None
        self._silent_us = dict.fromkeys(self._silent_us, 0)

    def observe(self, partition: int, time_us: int, now_us: int) -> None:
        """Record the time of an event of a partition."""
        if self._ahead_us is not None and time_us > now_us + self._ahead_us:
            return
        if time_us > self.newest_us.get(partition, NEVER):
            self.newest_us[partition] = time_us

    def current_us(self) -> int:
        """The watermark from all events seen; never before the committed one."""
        newest = self.newest_us
        active = (self._silent_us.keys() - self.idle) | self._active_elsewhere
        if any(number not in newest for number in active) or not newest:
            return self.value_us
        if active:
            found = min(newest[number] for number in active)
        else:
            found = max(newest.values())
            if self._advance_when_idle:
                found += min(self._silent_us.values()) - (self._idle_us or 0)
        return max(self.value_us, found - self._disorder_us)


class Stored(NamedTuple):
    """The event time of a pipeline, merged from what its processes have stored."""

    value_us: int
    newest_us: dict[int, int]
    """The newest event of each partition."""
    idle: frozenset[int]
    """Partitions that other processes have recently reported as idle."""


def stored_watermarks(
    database: Database, pipeline: str, share: Share = ALL, now_us: int = 0
) -> Stored:
    """The last committed watermark of a pipeline, and the state of its partitions.

    Raises:
        StoreUnavailable: the database can't be read.
    """
    value_us, newest_us, idle = NEVER, dict[int, int](), set[int]()
    for process, processes, told, newest, silent, told_us in database.execute(
        "SELECT process, processes, watermark_us, newest, idle, told_us FROM watermarks "
        "WHERE pipeline = ?",
        (pipeline,),
    ):
        value_us = max(value_us, told)
        for partition, time_us in msgspec.json.decode(newest, type=dict[int, int]).items():
            newest_us[partition] = max(newest_us.get(partition, NEVER), time_us)
        of_now = processes == share.of and process != share.number
        if of_now and abs(now_us - told_us) <= BELIEVED_US:
            idle |= msgspec.json.decode(silent, type=set[int])
    return Stored(value_us, newest_us, frozenset(idle))


def watermark_elsewhere(database: Database, pipeline: str, share: Share) -> int:
    """The watermark that other processes have last committed.

    Raises:
        StoreUnavailable: the database can't be read.
    """
    (found,) = database.execute(
        "SELECT max(watermark_us) FROM watermarks WHERE pipeline = ? AND process <> ?",
        (pipeline, share.number),
    ).fetchone()
    return NEVER if found is None else found


def store_watermark(
    database: Database,
    pipeline: str,
    watermark: Watermark,
    share: Share = ALL,
    now_us: int = 0,
) -> None:
    """Store what a process knows, in the caller's transaction. That includes other processes'
    partitions, which may be its own in a later term."""
    database.execute(
        "INSERT INTO watermarks VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (pipeline, process) "
        "DO UPDATE SET processes = excluded.processes, watermark_us = excluded.watermark_us, "
        "newest = excluded.newest, idle = excluded.idle, told_us = excluded.told_us",
        (
            pipeline,
            *share,
            watermark.value_us,
            msgspec.json.encode(watermark.newest_us),
            msgspec.json.encode(sorted(watermark.idle)),
            now_us,
        ),
    )


def _microseconds(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1_000_000)
