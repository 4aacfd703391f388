"""Storage of aggregates: event streams, heads and snapshots.

Events are only inserted. An append updates the head from the version that it has seen, and so
detects conflicts. In PostgreSQL, a concurrent append waits there for the first one's commit.
"""

from collections.abc import Iterator, Sequence
from typing import Final, Protocol

import msgspec

from counterfoil.events.database import Cursor

PAGE: Final = 1_000
"""Maximum events in memory while a stream is read."""

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS stream_heads (
    aggregate TEXT NOT NULL, id TEXT NOT NULL, version INTEGER NOT NULL,
    PRIMARY KEY (aggregate, id)) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS stream_events (
    aggregate TEXT NOT NULL, id TEXT NOT NULL, version INTEGER NOT NULL, kind TEXT NOT NULL,
    kind_version INTEGER NOT NULL, content BLOB NOT NULL, at_us INTEGER NOT NULL,
    PRIMARY KEY (aggregate, id, version)) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS stream_snapshots (
    aggregate TEXT NOT NULL, id TEXT NOT NULL, version INTEGER NOT NULL, state_schema TEXT NOT NULL,
    content BLOB NOT NULL, at_us INTEGER NOT NULL,
    PRIMARY KEY (aggregate, id)) STRICT, WITHOUT ROWID;
"""


class Session(Protocol):
    """The transaction of a command or handler: a `Unit` or a `Context`."""

    @property
    def now_us(self) -> int:
        """The time of the transaction, in microseconds since 1970."""
        ...

    def execute(self, sql: str, parameters: Sequence[object] = ()) -> Cursor:
        """Run a statement."""
        ...


class StoredEvent(msgspec.Struct, frozen=True):
    """An event with its version in its stream; versions begin with 1."""

    version: int
    kind: str
    kind_version: int
    content: bytes
    at_us: int


class Snapshot(msgspec.Struct, frozen=True):
    """The state after `version` events."""

    version: int
    state_schema: str
    content: bytes
    at_us: int


class Stream:
    """The rows of one aggregate, seen from one transaction."""

    def __init__(self, session: Session, aggregate: str, identity: str) -> None:
        self._session = session
        self.identity = identity
        self._place = (aggregate, identity)

    def version(self) -> int:
        """The number of events."""
        row = self._session.execute(
            "SELECT version FROM stream_heads WHERE aggregate = ? AND id = ?", self._place
        ).fetchone()
        return 0 if row is None else row[0]

    def advance(self, seen: int, version: int) -> bool:
        """Move the head from version `seen`; False if it is elsewhere."""
        if seen == 0:
            moved = self._session.execute(
                "INSERT INTO stream_heads VALUES (?, ?, ?) ON CONFLICT (aggregate, id) DO NOTHING",
                (*self._place, version),
            )
        else:
            moved = self._session.execute(
                "UPDATE stream_heads SET version = ? WHERE aggregate = ? AND id = ? "
                "AND version = ?",
                (version, *self._place, seen),
            )
        return moved.rowcount == 1

    def add(self, event: StoredEvent) -> None:
        """Write an event, after `advance`."""
        self._session.execute(
            "INSERT INTO stream_events VALUES (?, ?, ?, ?, ?, ?, ?)",
            (*self._place, *msgspec.structs.astuple(event)),
        )

    def read(self, after: int, up_to: int) -> Iterator[StoredEvent]:
        """The events with `after < version <= up_to`, in order."""
        while after < up_to:
            page = self._session.execute(
                "SELECT version, kind, kind_version, content, at_us FROM stream_events "
                "WHERE aggregate = ? AND id = ? AND version > ? AND version <= ? "
                "ORDER BY version LIMIT ?",
                (*self._place, after, up_to, PAGE),
            ).fetchall()
            if not page:
                return
            yield from (StoredEvent(*row) for row in page)
            after = page[-1][0]

    def snapshot(self) -> Snapshot | None:
        """The newest snapshot."""
        row = self._session.execute(
            "SELECT version, state_schema, content, at_us FROM stream_snapshots "
            "WHERE aggregate = ? AND id = ?",
            self._place,
        ).fetchone()
        return None if row is None else Snapshot(*row)

    def keep(self, snapshot: Snapshot) -> None:
        """Replace the snapshot."""
        self._session.execute(
            "INSERT INTO stream_snapshots VALUES (?, ?, ?, ?, ?, ?) "
            "ON CONFLICT (aggregate, id) DO UPDATE SET version = excluded.version, "
            "state_schema = excluded.state_schema, content = excluded.content, "
            "at_us = excluded.at_us",
            (*self._place, *msgspec.structs.astuple(snapshot)),
        )
