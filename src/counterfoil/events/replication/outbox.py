"""An outbox that is read from PostgreSQL's log: events come in the order of their commits.

The table tells rows in the order of their numbers, so its writers must commit one after the other.
The log has the commits in order by itself: writers needn't wait for each other, and nobody asks a
table again and again. The rows stay in the table for those who look something up.

Positions in the log are told from numbers of rows by their size, so that an application may go over
from one to the other and back with the data that it has. Both ways there is a boundary: a moment at
which no writer is in the outbox. Whatever row has a number up to the boundary's was committed below
its place in the log, and every other one will be above.
"""

from typing import Final, NamedTuple

from counterfoil.events.database import Database
from counterfoil.events.errors import EventsError
from counterfoil.events.messages import Message
from counterfoil.events.outbox import COLUMNS, TableOutbox, message_of
from counterfoil.events.replication.slot import Slot
from counterfoil.events.replication.stream import ReplicationStream, SlotInUse

IN_LOG: Final = 1 << 62
"""Added to a place in the log: a table doesn't get that far in numbers, nor a log in bytes."""


class _Boundary(NamedTuple):
    row: int
    place: int


class LogOutbox:
    """What is inserted into the table `outbox` of `database`, by the slot that it is streamed from.

    The events of a transaction come together and share a position, so there may be more than were
    asked for. A position that is given is one up to which all is in the event log: the slot is told
    that it may forget as much.
    """

    def __init__(self, database: Database, slot: Slot, uri: str, password: str | None) -> None:
        self._database = database
        self._table = TableOutbox(database)
        self._slot = slot
        self._uri = uri
        self._password = password
        self._stream: ReplicationStream | None = None
        self._boundary: _Boundary | None = None
        self._handed: list[tuple[int, Message]] = []

    def read_after(self, position: int, limit: int) -> list[tuple[int, Message]]:
        """The events after `position`, each with its own position; none when there are none yet.

        Raises:
            StoreUnavailable: PostgreSQL can't be reached, or another reader has taken the slot.
            EventsError: the slot is gone, or the database is not the one that was read before.
        """
        if position >= IN_LOG:
            return self.read_log(position - IN_LOG, limit)
        if self._boundary is None:
            self._slot.make()
            self._boundary = boundary(self._database)
        if position < self._boundary.row and self._stream is None:
            rows = self._table.read_after(position, limit)
            rows = [each for each in rows if each[0] <= self._boundary.row]
            if rows:
                return rows
        return self.read_log(self._boundary.place, limit)

    def read_log(
        self, place: int, limit: int, *, until: int | None = None
    ) -> list[tuple[int, Message]]:
        """The events that were committed after `place` in the log, and by the place `until`."""
        if self._handed and IN_LOG + place < self._handed[-1][0]:
            return self._handed  # they were not appended, and are asked for again
        try:
            stream = self._opened(place)
            # What was received before is in the event log by now.
            stream.confirm(max(place, self.heard if until is None else min(self.heard, until)))
            self._handed = [
                (IN_LOG + transaction.end, message_of([row[name] for name in COLUMNS]))
                for transaction in stream.receive(limit, ask=until is not None)
                if transaction.end > place and (until is None or transaction.end <= until)
                for row in transaction.rows
            ]
        except EventsError:
            self.hang_up()
            raise
        return self._handed

    @property
    def heard(self) -> int:
        """Up to which place in the log all was received; 0 when nothing is streamed."""
        return 0 if self._stream is None else self._stream.heard

    def hang_up(self) -> None:
        """End the stream; the slot stays, and the next look begins a new one."""
        self._handed = []
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def close(self) -> None:
        """End the stream, and close the database."""
        self.hang_up()
        self._database.close()

    def _opened(self, place: int) -> ReplicationStream:
        if self._stream is not None:
            return self._stream
        name = self._slot.readable()
        if (end := place_now(self._database)) < place:
            raise EventsError(
                f"PostgreSQL's log ends at {end}, before {place}, up to where it was read: "
                "this is another server, or an older state of it",
                hint="use the database that the event log was filled from",
            )
        try:
            self._stream = self._stream_of(name, place)
        except SlotInUse:
            # Its reader's term is over, or else ours is, and the log refuses what we append.
            self._slot.free()
            self._stream = self._stream_of(name, place)
        return self._stream

    def _stream_of(self, name: str, place: int) -> ReplicationStream:
        return ReplicationStream(self._uri, self._password, slot=name, start=place)


class ReturnedOutbox:
    """The table, after a time in which its log was read: finishes with the slot, and drops it."""

    def __init__(self, database: Database, slot: Slot, log: LogOutbox) -> None:
        self._table = TableOutbox(database)
        self._database = database
        self._slot = slot
        self._log = log
        self._boundary: _Boundary | None = None
        self._dropped = False

    def read_after(self, position: int, limit: int) -> list[tuple[int, Message]]:
        """The events after `position`, each with its own position; none when there are none yet.

        Raises:
            StoreUnavailable: PostgreSQL can't be reached.
            EventsError: the slot is gone before it was read to the boundary.
        """
        if position < IN_LOG:
            if not self._dropped:
                if self._slot.exists():
                    self._log.hang_up()
                    self._slot.drop()
                self._dropped = True
            return self._table.read_after(position, limit)
        if self._boundary is None:
            self._boundary = boundary(self._database)
        left = self._log.read_log(position - IN_LOG, limit, until=self._boundary.place)
        if left or self._log.heard < self._boundary.place:
            return left
        return self._table.read_after(self._boundary.row, limit)

    def close(self) -> None:
        """Close the database; a slot that has to be read further stays."""
        self._log.close()
        self._table.close()


def boundary(database: Database) -> _Boundary:
    """A row's number and a place in the log that part what is committed from what will be."""
    with database.transaction():
        database.exclusive("outbox")
        (row,) = database.execute("SELECT coalesce(max(seq), 0) FROM outbox").fetchone()
        place = place_now(database)
        # Something behind the place, so that a reader of the log gets past it.
        database.execute("SELECT pg_logical_emit_message(TRUE, 'counterfoil', 'boundary')")
    return _Boundary(row, place)


def place_now(database: Database) -> int:
    """The end of the server's log, in bytes from its beginning (an LSN)."""
    (place,) = database.execute(
        "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')"
    ).fetchone()
    return int(place)
