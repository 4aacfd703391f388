"""Versioned rows: duplicates, late and reordered events lead to the same rows.

Each event carries the whole row and the row's version, growing by one with each change. A row is
replaced by a newer version only; what is older or the same is counted and dropped. A version that
jumps ahead is taken, and the jump is kept as a gap until the versions in between have come.
"""

from collections.abc import Sequence
from typing import Any, Final, Generic, Protocol, TypeVar

import msgspec

from counterfoil.events.database import Cursor
from counterfoil.events.errors import EventsError

T = TypeVar("T")
GAPS_LIMIT: Final = 64
"""Missing versions that are remembered of one row, the newest of them: more is a broken source."""

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS versioned_rows (
    name TEXT NOT NULL, key TEXT NOT NULL, version INTEGER NOT NULL, content BLOB NOT NULL,
    missing BLOB NOT NULL, repeated INTEGER NOT NULL, outdated INTEGER NOT NULL,
    PRIMARY KEY (name, key)) STRICT, WITHOUT ROWID;
"""


class _Session(Protocol):
    def execute(self, sql: str, parameters: Sequence[object] = ()) -> Cursor: ...


class Upserted(msgspec.Struct, frozen=True):
    """What became of an event."""

    applied: bool
    """Whether its row is now this one."""
    version: int
    """The version that the row has now."""
    missing: int
    """How many versions before it have not come yet."""


class RowCounts(msgspec.Struct, frozen=True):
    """What the rows of a name have seen."""

    rows: int
    repeated: int
    """Events whose version was there or had come before."""
    outdated: int
    """Events that came late: older than the row, and not seen before."""
    gaps: dict[str, list[int]]
    """Missing versions by key."""


class VersionedRows(Generic[T]):
    """Rows of one type below a name, in the database of the pipelines.

    The first version of a row is 1.
    """

    def __init__(self, name: str, row: type[T]) -> None:
        self.name = name
        self._row = row

    def upsert(self, session: _Session, key: str, version: int, row: T) -> Upserted:
        """Take in a version of a row, with the commit of the handler.

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
        """The newest version of a row that has come, and the row."""
        found = self._find(session, key)
        return None if found is None else (found[0], msgspec.json.decode(found[1], type=self._row))

    def counts(self, session: _Session) -> RowCounts:
        """What was taken, dropped, and is missing."""
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
