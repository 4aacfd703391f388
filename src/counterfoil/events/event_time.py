"""Event time: watermarks, without I/O.

Each partition's newest event, less the disorder that is allowed, says that nothing older comes from
there. The watermark is the minimum over the partitions (Akidau et al., "The Dataflow Model", 2015).
It is stored with each commit that moves it, and never goes back.

A partition that has no events would hold it back for ever. One from which nothing came for
`idle_seconds` is left out; when all are idle, the furthest one counts. Silence is counted only
while somebody listens: from the first look of this process on, and on Kafka, where a fetch that
brings nothing doesn't say that there is nothing, at most `LISTENING_US` for each look. A process
that was stopped for an hour finds an hour's events, not an hour of silence.

A pipeline in several processes has one watermark all the same: a key of windows or of state may get
events from any partition. Each process stores what it has heard from its own partitions, and takes
the minimum over all. It tells which of its partitions are idle, again and again, and is believed
for `BELIEVED_US`: while a process is dead, its partitions hold the watermark as active ones do.

`Watermark` is pure: it is told what was read, and when.
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
"""The watermark before there is one."""
IDLE_SECONDS: Final = 60.0
"""Longer than a relay takes to be led again, or a broker to be elected."""
AHEAD_SECONDS: Final = 86_400.0
"""Longer than clocks are wrong by a time zone, shorter than one that is wrong by a year."""
LISTENING_US: Final = 1_000_000
BELIEVED_US: Final = 5_000_000
"""Some times longer than a process is silent that has nothing else to tell, and clocks differ."""
SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS watermarks (
    pipeline TEXT NOT NULL, process INTEGER NOT NULL, processes INTEGER NOT NULL,
    watermark_us INTEGER NOT NULL, newest BLOB NOT NULL, idle BLOB NOT NULL,
    told_us INTEGER NOT NULL, PRIMARY KEY (pipeline, process)) STRICT, WITHOUT ROWID;
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
    """The watermark of so many `partitions`, of which a `share` is heard here.

    Those of several sources are numbered one after the other, `each` of which has so many; it is
    all of them if nothing is said, and of no account in one process.
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
        """As it was committed last."""
        self.newest_us: dict[int, int] = {}
        """The newest event of each partition, with those of the commit at work."""
        heard = (number for number in range(partitions) if share.has(number % (each or partitions)))
        self._silent_us = dict.fromkeys(heard, 0)
        self._elsewhere = frozenset(range(partitions)) - self._silent_us.keys()
        """The partitions that other processes hear."""
        self._active_elsewhere = self._elsewhere
        self._looked_us: int | None = None

    @property
    def idle(self) -> frozenset[int]:
        """The partitions that were silent for so long, of those that are heard here."""
        idle_us = self._idle_us
        if idle_us is None:
            return frozenset()
        return frozenset(each for each, quiet in self._silent_us.items() if quiet >= idle_us)

    def restore(self, stored: "Stored") -> None:
        """Go on from what is stored."""
        self.value_us = stored.value_us
        self.newest_us = stored.newest_us
        self._active_elsewhere = self._elsewhere - stored.idle

    def look(self, heard: Collection[int], now_us: int, *, exhaustive: bool) -> None:
        """Somebody has looked for events, and `heard` from some partitions.

        `exhaustive` says that there were none in the others.
        """
        passed = 0 if self._looked_us is None else max(now_us - self._looked_us, 0)
        if not exhaustive:
            passed = min(passed, LISTENING_US)
        self._looked_us = now_us
        for partition, silent in self._silent_us.items():
            self._silent_us[partition] = 0 if partition in heard else silent + passed

    def listen_again(self) -> None:
        """Nobody has listened: whatever was silent may have spoken."""
        self._looked_us = None
        self._silent_us = dict.fromkeys(self._silent_us, 0)

    def observe(self, partition: int, time_us: int, now_us: int) -> None:
        """An event of that time has come from a partition."""
        if self._ahead_us is not None and time_us > now_us + self._ahead_us:
            return
        if time_us > self.newest_us.get(partition, NEVER):
            self.newest_us[partition] = time_us

    def current_us(self) -> int:
        """The watermark by all that was seen: no earlier than the committed one."""
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
    """What the processes of a pipeline have stored of its event time, taken together."""

    value_us: int
    newest_us: dict[int, int]
    """The newest event of each partition."""
    idle: frozenset[int]
    """Partitions that other processes have told to be idle, and not long ago."""


def stored_watermarks(
    database: Database, pipeline: str, share: Share = ALL, now_us: int = 0
) -> Stored:
    """The watermark of a pipeline, and what is known of its partitions, as last committed.

    Raises:
        StoreUnavailable: the database can't be asked.
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
    """How far other processes have moved the watermark, as last committed.

    Raises:
        StoreUnavailable: the database can't be asked.
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
    """Store what a process knows, in the caller's transaction: of other partitions as well, which
    may be its own in a later term."""
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
