"""Versioned rows: duplicates, late and reordered events lead to the same rows.

Each event carries the whole row and its version, which increases by one with each change. A row is
replaced by newer versions only; older or equal ones are counted and dropped. A version that skips
others is applied, and the skipped ones are recorded as a gap until they arrive.
"""

from collections.abc import Sequence
from typing import Any, Final, Generic, Protocol, TypeVar

import msgspec

from counterfoil.events.database import Cursor
from counterfoil.events.errors import EventsError

T = TypeVar("T")
GAPS_LIMIT: Final = 64
"""Maximum missing versions to record for one row, the newest of them: more is a broken source."""

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS versioned_rows (
    name TEXT NOT NULL, key TEXT NOT NULL, version INTEGER NOT NULL, content BLOB NOT NULL,
    missing BLOB NOT NULL, repeated INTEGER NOT NULL, outdated INTEGER NOT NULL,
    PRIMARY KEY (name, key)) STRICT, WITHOUT ROWID;
"""


class _Session(Protocol):
    def execute(self, sql: str, parameters: Sequence[object] = ()) -> Cursor: ...


class Upserted(msgspec.Struct, frozen=True):
    """The outcome of an event."""

    applied: bool
    """Whether the row was replaced."""
    version: int
    """The row's version now."""
    missing: int
    """How many earlier versions have not arrived yet."""


class RowCounts(msgspec.Struct, frozen=True):
    """Counts over all rows of a name."""

    rows: int
    repeated: int
    """Duplicates: events whose version had arrived before."""
    outdated: int
    """Late events: older than the row, and not seen before."""
    gaps: dict[str, list[int]]
    """Missing versions by key."""


class VersionedRows(Generic[T]):
    """Rows of one type under a name, in the pipelines' database.

    The first version of a row is 1.
    """

    def __init__(self, name: str, row: type[T]) -> None:
        self.name = name
        self._row = row

    def upsert(self, session: _Session, key: str, version: int, row: T) -> Upserted:
        """Apply a version of a row, with the handler's commit.

        Raises:
            EventsError: the version is below 1.
        """
        if version < 1:
            raise EventsError(f"{self.name} {key}: versions begin with 1, not {version}")
        content = msgspec.json.encode(row)
        found = self._find(session, key)
        if found is None:
            missing = list(range(max(1, version - GAPS_LIMIT), version))
            session.execute(
                "INSERT INTO versioned_rows VALUES (?, ?, ?, ?, ?, 0, 0)",
                (self.name, key, version, content, msgspec.json.encode(missing)),
            )
            return Upserted(True, version, len(missing))
        current, _, missing = found
        if version > current:
            missing = [*missing, *range(max(current + 1, version - GAPS_LIMIT), version)]
            missing = missing[-GAPS_LIMIT:]
            session.execute(
                "UPDATE versioned_rows SET version = ?, content = ?, missing = ? "
                "WHERE name = ? AND key = ?",
                (version, content, msgspec.json.encode(missing), self.name, key),
            )
            return Upserted(True, version, len(missing))
        late = version in missing
        missing = [each for each in missing if each != version]
        session.execute(
            "UPDATE versioned_rows SET missing = ?, repeated = repeated + ?, "
            "outdated = outdated + ? WHERE name = ? AND key = ?",
            (msgspec.json.encode(missing), int(not late), int(late), self.name, key),
        )
        return Upserted(False, current, len(missing))

    def get(self, session: _Session, key: str) -> tuple[int, T] | None:
        """The newest version of a row that has arrived, and the row."""
        found = self._find(session, key)
        return None if found is None else (found[0], msgspec.json.decode(found[1], type=self._row))

    def counts(self, session: _Session) -> RowCounts:
        """The counts of rows, duplicates, late events and gaps."""
        rows, repeated, outdated = session.execute(
            "SELECT count(*), CAST(coalesce(sum(repeated), 0) AS INTEGER), "
            "CAST(coalesce(sum(outdated), 0) AS INTEGER) FROM versioned_rows WHERE name = ?",
            (self.name,),
        ).fetchone()
        gaps = {
            key: msgspec.json.decode(missing, type=list[int])
            for key, missing in session.execute(
                "SELECT key, missing FROM versioned_rows WHERE name = ? AND missing <> ?",
                (self.name, b"[]"),
            ).fetchall()
        }
        return RowCounts(rows, repeated, outdated, gaps)

    def _find(self, session: _Session, key: str) -> tuple[int, bytes, list[int]] | None:
        row: Any = session.execute(
            "SELECT version, content, missing FROM versioned_rows WHERE name = ? AND key = ?",
            (self.name, key),
        ).fetchone()
        return None if row is None else (row[0], row[1], msgspec.json.decode(row[2]))
