"""Timers of a pipeline: set in one commit, fired in another, exactly once.

A timer is a row, identified by its key and name; setting it again moves it. It is deleted in the
commit of its handler's effects, so that a crash leaves both or neither. There are two clocks. Event
time is the pipeline's watermark (`event_time.py`): a timer fires once all earlier events have
arrived, within the allowed disorder. Processing time is the time of the commit.

Changes by handlers are buffered within the commit, as their state is (`state.py`).

If a pipeline has several processes, a timer is fired by the one that owns the partition of its key,
whichever has set it. That process locks the rows that it is about to fire, and skips those that
another process has locked to change them: it sees the result of that commit later.
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
"""The header that marks the dead letter of a timer."""


class Timer(msgspec.Struct, frozen=True, gc=False):
    """A timer, as its handler gets it."""

    at_us: int
    """Microseconds since 1970 on its clock."""
    key: str
    name: str
    payload: bytes
    clock: Clock
    event_id: int
    """The event whose handler has set it: the cause of what the timer's handler emits."""

    def record(self, pipeline: str, *, buried: bool = False) -> Record:
        """The timer as a record, for its context or, if `buried`, for its dead letter."""
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
    """The timer of a record that is a timer's dead letter; None for an event.

    Raises:
        msgspec.DecodeError: the header is invalid.
    """
    told = record.headers.get(_BURIED)
    if told is None:
        return None
    found = msgspec.json.decode(told, type=_Told)
    return Timer(found.at_us, record.key, found.name, record.value, found.clock, record.event_id)


class Timers:
    """The timers of one pipeline, of which this process fires a share.

    `clocks` are those that the pipeline has, `partitions` is the number of its source's partitions.
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
        """SQL condition, with parameters, for the timers that this process fires."""
        if share.of > 1:
            self._where, self._of_share = " AND partition % ? = ?", (share.of, share.number)
        self._handler: dict[Name, Timer | None] = {}
        self._commit: dict[Name, Timer | None] = {}
        self._written: dict[Name, Timer | None] = {}
        """What this commit has written since it last read due timers."""
        self._accepted: list[Timer] = []
        """Timers set by successful handlers of this commit since `accepted` was last called."""
        self.changed = False
        """Whether something was written since `earliest` was last called."""

    def begin(self) -> None:
        """A commit has begun."""
        self._written.clear()
        self._accepted.clear()

    def set(self, timer: Timer) -> None:
        """Set a timer, or move it.

        Raises:
            EventsError: the pipeline has no such clock, or no handler of timers.
        """
        self._check()
        if timer.clock not in self._clocks:
            raise EventsError(
                f"pipeline {self._pipeline} has no event time for its timers",
                hint="declare event_time=EventTime(...) on it",
            )
        self._handler[timer.key, timer.name] = timer

    def cancel(self, key: str, name: str) -> None:
        """Cancel a timer; does nothing if it isn't set.

        Raises:
            EventsError: the pipeline has no handler of timers.
        """
        self._check()
        self._handler[key, name] = None

    def accept(self) -> None:
        """The handler has succeeded."""
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
        """Drop buffered changes: the commit has failed, or another process has written."""
        self._handler.clear()
        self._commit.clear()
        self._accepted.clear()
        self.changed = True

    def earliest(self) -> dict[Clock, int]:
        """When the first timer of each clock is due, according to the database.

        Raises:
            StoreUnavailable: the database can't be read.
        """
        rows = self._database.execute(
            "SELECT clock, min(at_us) FROM timers "  # noqa: S608 - of two texts
            f"WHERE pipeline = ?{self._where} GROUP BY clock",
            (self._pipeline, *self._of_share),
        )
        self.changed = False
        return {cast("Clock", clock): at_us for clock, at_us in rows.fetchall()}

    def due(self, clock: Clock, until_us: int, limit: int) -> "Due":
        """The due timers of a clock; call `flush` before.

        Raises:
            StoreUnavailable: the database can't be read.
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
        """Remove and return the timers of this process that successful handlers have set."""
        taken, self._accepted = self._accepted, []
        if self._share.of == 1:
            return taken
        return [
            timer for timer in taken if self._share.has(partition_of(timer.key, self._partitions))
        ]

    def holds(self, timer: Timer) -> bool:
        """Whether a timer that was set or read is still valid: neither moved nor cancelled."""
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
    """The due timers, in order of their times, then keys, then names.

    Timers that handlers set meanwhile are included, and those that they cancel are left out.
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
    """The handlers' interface to timers, whose default key is that of the event."""

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
        """Set or move a timer: the pipeline's timer handler is called once at `at_us`.

        `at_us` is in microseconds since 1970, in event time or processing time. A time that has
        passed is due at once. A timer is identified by its key, by default the event's, and its
        name. `payload` is passed to the handler.

        Raises:
            EventsError: the pipeline has no such clock, or no handler of timers.
            TypeError: `at_us` is no integer, or `payload` not bytes.
        """
        if not isinstance(at_us, int):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"a timer's time is whole microseconds, not {type(at_us).__name__}")
        if not isinstance(payload, bytes):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"a timer carries bytes, not {type(payload).__name__}")
        record = self._record
        key = record.key if key is None else key
        self._timers.set(Timer(at_us, key, name, payload, clock, record.event_id))

    def cancel(self, name: str, *, key: str | None = None) -> None:
        """Cancel a timer; does nothing if it isn't set.

        Raises:
            EventsError: the pipeline has no handler of timers.
        """
        self._timers.cancel(self._record.key if key is None else key, name)
