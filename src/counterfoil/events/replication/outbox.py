"""An outbox that is read from PostgreSQL's WAL: events come in commit order.

A table is read in the order of row numbers, so its writers must commit one after the other. The WAL
is in commit order: writers don't wait for each other, and no table is polled. The rows stay in the
table for inspection.

Positions in the WAL are distinguished from row numbers by their size (`IN_LOG`), so that an
application may switch between both with its existing data. A switch in either direction has a
boundary: a moment at which no transaction is writing to the outbox. All rows with numbers up to the
boundary's were committed before its LSN, and all others will be committed after it.
"""

from typing import Final, NamedTuple

from counterfoil.events.database import Database
from counterfoil.events.errors import EventsError
from counterfoil.events.messages import Message
from counterfoil.events.outbox import COLUMNS, TableOutbox, message_of
from counterfoil.events.replication.slot import Slot
from counterfoil.events.replication.stream import ReplicationStream, SlotInUse

IN_LOG: Final = 1 << 62
"""Added to an LSN to make a position: neither row numbers nor LSNs get that high."""


class _Boundary(NamedTuple):
    row: int
    place: int


class LogOutbox:
    """Reads the inserts into the table `outbox` of `database` from its replication slot.

    The events of a transaction are returned together and share a position, so there may be more
    than `limit`. All events up to the position of a read are in the event log, and are confirmed to
    the slot.
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
        """The events after `position`, each with its position; empty if there are none yet.

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
        """The events that were committed after the LSN `place`, and up to the LSN `until`."""
        if self._handed and IN_LOG + place < self._handed[-1][0]:
            return self._handed  # they were not appended, so return them again
        try:
            stream = self._opened(place)
            # The events of earlier reads are in the event log by now.
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
        """The LSN up to which everything was received; 0 without a stream."""
        return 0 if self._stream is None else self._stream.heard

    def hang_up(self) -> None:
        """End the stream; the slot stays, and the next read opens a new one."""
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
            # Its reader's term is over, or ours is, and then the log rejects our appends.
            self._slot.free()
            self._stream = self._stream_of(name, place)
        return self._stream

    def _stream_of(self, name: str, place: int) -> ReplicationStream:
        return ReplicationStream(self._uri, self._password, slot=name, start=place)


class ReturnedOutbox:
    """Reads the table again after reading from the WAL: drains the slot first, and drops it."""

    def __init__(self, database: Database, slot: Slot, log: LogOutbox) -> None:
        self._table = TableOutbox(database)
        self._database = database
        self._slot = slot
        self._log = log
        self._boundary: _Boundary | None = None
        self._dropped = False

    def read_after(self, position: int, limit: int) -> list[tuple[int, Message]]:
        """The events after `position`, each with its position; empty if there are none yet.

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
        """Close the database; the slot stays if it isn't drained."""
        self._log.close()
        self._table.close()


def boundary(database: Database) -> _Boundary:
    """A row number and an LSN that separate committed events from later ones."""
    with database.transaction():
        database.exclusive("outbox")
        (row,) = database.execute("SELECT coalesce(max(seq), 0) FROM outbox").fetchone()
        place = place_now(database)
        # A message after the LSN, so that readers get past it.
        database.execute("SELECT pg_logical_emit_message(TRUE, 'counterfoil', 'boundary')")
    return _Boundary(row, place)


def place_now(database: Database) -> int:
    """The end of the server's WAL (an LSN, in bytes)."""
    (place,) = database.execute(
        "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')"
    ).fetchone()
    return int(place)
