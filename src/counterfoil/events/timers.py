"""Timers of a pipeline: set in one commit, fired in another, each once.

A timer is a row, named by its key and name; setting it again moves it. It is taken away in the
commit of what its handler did, so that a crash leaves both or neither. There are two clocks. Event
time is the pipeline's watermark (`event_time.py`): a timer fires once it is known, within the
allowed disorder, that all events before it are there. Processing time is the time of the commit.

What handlers set and cancel is held in memory within the commit, as their state is (`state.py`).

Where a pipeline has several processes, a timer is fired by the one that has the partition of its
key, whoever has set it. It locks what it is about to fire, and leaves out what another process is
about to move: that one's commit decides, and a later look finds what it has decided.
"""

import heapq
from typing import Final, Literal, cast

import msgspec

from counterfoil.events.database import Database
from counterfoil.events.errors import EventsError
from counterfoil.events.messages import Record
from counterfoil.events.shares import ALL, Share
from counterfoil.events.topics import partition_of

Clock = Literal["event", "processing"]
Name = tuple[str, str]
"""A timer's key and name."""
SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS timers (
    pipeline TEXT NOT NULL, key TEXT NOT NULL, name TEXT NOT NULL, clock TEXT NOT NULL,
    at_us INTEGER NOT NULL, event_id INTEGER NOT NULL, payload BLOB NOT NULL,
    partition INTEGER NOT NULL,
    PRIMARY KEY (pipeline, key, name)) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS timers_by_time ON timers (pipeline, clock, at_us, key, name, partition);
"""
_BURIED: Final = "counterfoil-timer"
"""The header by which the dead letter of a timer is known when it is replayed."""


class Timer(msgspec.Struct, frozen=True, gc=False):
    """A moment that was asked for, as its handler gets it."""

    at_us: int
    """Microseconds since 1970 on its clock."""
    key: str
    name: str
    payload: bytes
    clock: Clock
    event_id: int
    """The event whose handler has set it; what its own handler emits is caused by this one."""

    def record(self, pipeline: str, *, buried: bool = False) -> Record:
        """The timer in the shape of a record: what a context and a dead letter are made of."""
        headers = {_BURIED: msgspec.json.encode(_Told(self.at_us, self.name, self.clock)).decode()}
        return Record(
            f"{pipeline}.timers",
            0,
            0,
            self.event_id,
            self.key,
            self.payload,
            headers if buried else {},
            self.at_us,
        )


class _Told(msgspec.Struct, frozen=True):
    at_us: int
    name: str
    clock: Clock


def buried_timer(record: Record) -> Timer | None:
    """The timer whose dead letter is replayed by a record; None if that is an event's.

    Raises:
        msgspec.DecodeError: the header is not a timer's.
    """
    told = record.headers.get(_BURIED)
    if told is None:
        return None
    found = msgspec.json.decode(told, type=_Told)
    return Timer(found.at_us, record.key, found.name, record.value, found.clock, record.event_id)


class Timers:
    """The timers of one pipeline, of which it fires a share.

    `clocks` are those that it has, `partitions` is the number of those of its source.
    """

    def __init__(
        self,
        database: Database,
        pipeline: str,
        clocks: frozenset[Clock],
        partitions: int,
        share: Share = ALL,
    ) -> None:
        self._database = database
        self._pipeline = pipeline
        self._clocks = clocks
        self._partitions = partitions
        self._share = share
        self._where, self._of_share = "", tuple[int, ...]()
        """What a query asks for besides, and its parameters: the timers that this process fires."""
        if share.of > 1:
            self._where, self._of_share = " AND partition % ? = ?", (share.of, share.number)
        self._handler: dict[Name, Timer | None] = {}
        self._commit: dict[Name, Timer | None] = {}
        self._written: dict[Name, Timer | None] = {}
        """What this commit has written since it has read the timers that are due."""
        self._accepted: list[Timer] = []
        """Set by handlers of this commit that came to their ends, since this was last asked."""
        self.changed = False
        """Whether something was written since `earliest` was asked."""

    def begin(self) -> None:
        """A commit has begun."""
        self._written.clear()
        self._accepted.clear()

    def set(self, timer: Timer) -> None:
        """Set a timer, or move it.

        Raises:
            EventsError: the pipeline has no such clock, or nothing that could fire.
        """
        self._check()
        if timer.clock not in self._clocks:
            raise EventsError(
                f"pipeline {self._pipeline} has no event time for its timers",
                hint="declare event_time=EventTime(...) on it",
            )
        self._handler[timer.key, timer.name] = timer

    def cancel(self, key: str, name: str) -> None:
        """Let a timer not fire; one that isn't set is no error.

        Raises:
            EventsError: the pipeline has nothing that could fire.
        """
        self._check()
        self._handler[key, name] = None

    def accept(self) -> None:
        """The handler has come to its end."""
        if self._handler:
            self._commit.update(self._handler)
            self._accepted += [timer for timer in self._handler.values() if timer is not None]
            self._handler.clear()

    def undo(self) -> None:
        """The handler has failed."""
        self._handler.clear()

    def flush(self) -> None:
        """Write what handlers have set and cancelled."""
        if not self._commit:
            return
        changes = sorted(self._commit.items(), key=lambda change: change[0])
        gone = [(self._pipeline, *name) for name, timer in changes if timer is None]
        if gone:
            self._database.executemany(
                "DELETE FROM timers WHERE pipeline = ? AND key = ? AND name = ?", gone
            )
        kept = [timer for _, timer in changes if timer is not None]
        if kept:
            self._database.executemany(
                "INSERT INTO timers VALUES (?, ?, ?, ?, ?, ?, ?, ?) "
                "ON CONFLICT (pipeline, key, name) DO UPDATE SET clock = excluded.clock, "
                "at_us = excluded.at_us, event_id = excluded.event_id, payload = excluded.payload",
                [
                    (
                        self._pipeline,
                        each.key,
                        each.name,
                        each.clock,
                        each.at_us,
                        each.event_id,
                        each.payload,
                        partition_of(each.key, self._partitions),
                    )
                    for each in kept
                ],
            )
        self._written.update(self._commit)
        self._commit.clear()
        self.changed = True

    def forget(self) -> None:
        """Believe only the database: the commit has failed, or somebody else has written."""
        self._handler.clear()
        self._commit.clear()
        self._accepted.clear()
        self.changed = True

    def earliest(self) -> dict[Clock, int]:
        """When the first timer of each clock is due, as the database knows; none if there is none.

        Raises:
            StoreUnavailable: the database can't be asked.
        """
        rows = self._database.execute(
            "SELECT clock, min(at_us) FROM timers "  # noqa: S608 - of two texts
            f"WHERE pipeline = ?{self._where} GROUP BY clock",
            (self._pipeline, *self._of_share),
        )
        self.changed = False
        return {cast("Clock", clock): at_us for clock, at_us in rows.fetchall()}

    def due(self, clock: Clock, until_us: int, limit: int) -> "Due":
        """The timers of a clock that are due; everything set before must have been written.

        Raises:
            StoreUnavailable: the database can't be asked.
        """
        self._written.clear()
        self._accepted.clear()
        database = self._database
        read = database.execute if self._share.of == 1 else database.lock_rows
        rows = read(
            "SELECT at_us, key, name, payload, event_id FROM timers "  # noqa: S608 - of two texts
            f"WHERE pipeline = ? AND clock = ? AND at_us <= ?{self._where} "
            "ORDER BY at_us, key, name LIMIT ?",
            (self._pipeline, clock, until_us, *self._of_share, limit),
        ).fetchall()
        found = [
            Timer(at_us, key, name, payload, clock, event_id)
            for at_us, key, name, payload, event_id in rows
        ]
        return Due(self, until_us, found)

    def accepted(self) -> list[Timer]:
        """What was set by handlers that came to their ends and is this process's, once."""
        taken, self._accepted = self._accepted, []
        if self._share.of == 1:
            return taken
        return [
            timer for timer in taken if self._share.has(partition_of(timer.key, self._partitions))
        ]

    def holds(self, timer: Timer) -> bool:
        """Whether a timer that was set or read is still to fire: neither moved nor cancelled."""
        name = (timer.key, timer.name)
        for layer in (self._handler, self._commit, self._written):
            if name in layer:
                return layer[name] == timer
        return True

    def _check(self) -> None:
        if not self._clocks:
            raise EventsError(
                f"pipeline {self._pipeline} has no handler of timers",
                hint=f'declare one: @app.timer("{self._pipeline}")',
            )


class Due:
    """The timers that are due, in the order of their times, then keys, then names.

    What handlers set meanwhile takes its place among them, and what they cancel does not come.
    """

    def __init__(self, timers: Timers, until_us: int, found: list[Timer]) -> None:
        self._timers = timers
        self._until_us = until_us
        self._clock = found[0].clock if found else None
        self._waiting = [_ordered(timer) for timer in found]
        heapq.heapify(self._waiting)

    def next(self) -> Timer | None:
        """The next one; None if none is left."""
        for timer in self._timers.accepted():
            if timer.clock == self._clock and timer.at_us <= self._until_us:
                heapq.heappush(self._waiting, _ordered(timer))
        while self._waiting:
            timer = heapq.heappop(self._waiting)[1]
            if self._timers.holds(timer):
                return timer
        return None


_Ordered = tuple[tuple[int, str, str], Timer]


def _ordered(timer: Timer) -> _Ordered:
    return (timer.at_us, timer.key, timer.name), timer


class TimersOfRecord:
    """The timers of a pipeline, as a handler sets them; their key is that of its event."""

    __slots__ = ("_record", "_timers")

    def __init__(self, timers: Timers, record: Record) -> None:
        self._timers = timers
        self._record = record

    def set(
        self,
        name: str,
        at_us: int,
        *,
        key: str | None = None,
        payload: bytes = b"",
        clock: Clock = "event",
    ) -> None:
        """Let the pipeline's timer handler be called once at `at_us`, or move that moment.

        `at_us` is in microseconds since 1970, on the clock of events or of processing. A moment
        that has passed is due at once. A timer is known by its key and name; without a `key` it
        is the event's. `payload` comes back to the handler.

        Raises:
            EventsError: the pipeline has no such clock, or nothing that could fire.
            TypeError: `at_us` is no whole number, or `payload` not bytes.
        """
        if not isinstance(at_us, int):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"a timer's time is whole microseconds, not {type(at_us).__name__}")
        if not isinstance(payload, bytes):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"a timer carries bytes, not {type(payload).__name__}")
        record = self._record
        key = record.key if key is None else key
        self._timers.set(Timer(at_us, key, name, payload, clock, record.event_id))

    def cancel(self, name: str, *, key: str | None = None) -> None:
        """Let a timer not fire; one that isn't set is no error.

        Raises:
            EventsError: the pipeline has nothing that could fire.
        """
        self._timers.cancel(self._record.key if key is None else key, name)
