"""Keyed state of a pipeline that several processes write.

Handlers may read and write any key, but mostly use their event's own, which no other process
touches. So concurrency control is optimistic. A commit remembers the values that it has read, and
updates `WHERE value = ` the value read: if another process has changed the row, too few rows match
and the commit is rolled back (`Contended`). Values that were read but not written are compared at
the end. After a conflict, the same events are handled again on the current values, with other
processes locked out.

Keys that turned out to be shared are not cached across commits. A pipeline whose handlers all write
one key stays correct, but is no faster than in one process.

A write without a prior read overwrites, as in one process. Write skew is possible: of two
concurrent commits that each only read what the other writes, both may succeed.
"""

from collections.abc import Iterable
from itertools import islice
from typing import Final

from counterfoil.events.database import Database
from counterfoil.events.errors import Contended
from counterfoil.events.state import State

CHUNK: Final = 256
"""Keys per query. The last one is repeated to fill it up, so that one prepared statement serves
all queries."""
CONTENDED: Final = 10_000
"""Maximum keys to remember as shared; beyond it, the set is cleared."""
_UNKNOWN: Final = object()
_CHANGE: Final = "UPDATE state SET value = ? WHERE pipeline = ? AND key = ? AND value = ?"
_ADD: Final = "INSERT INTO state VALUES (?, ?, ?) ON CONFLICT (pipeline, key) DO NOTHING"
_PUT: Final = (
    "INSERT INTO state VALUES (?, ?, ?) ON CONFLICT (pipeline, key) "
    "DO UPDATE SET value = excluded.value"
)
_TAKE: Final = "DELETE FROM state WHERE pipeline = ? AND key = ? AND value = ?"
_DELETE: Final = "DELETE FROM state WHERE pipeline = ? AND key = ?"
_LOOK: Final = (
    "SELECT key, value FROM state WHERE pipeline = ? AND key IN "  # noqa: S608
    f"({', '.join('?' * CHUNK)})"
)


class SharedState(State):
    """The state of `pipeline`, whose cached values are verified in the database."""

    def __init__(self, database: Database, pipeline: str) -> None:
        super().__init__(database, pipeline)
        self._read: dict[str, bytes | None] = {}
        """The values that this commit has read."""
        self._there: dict[str, bytes | None] = {}
        """The values as the transaction sees them now, including its own writes."""
        self._overwritten: dict[str, bytes | object | None] = {}
        """The previous values of keys written since the last savepoint."""
        self._doubted: dict[str, bytes | None] = {}
        """The values that a commit had read before it failed with a conflict."""
        self._contended: set[str] = set()

    def begin(self) -> None:
        """A transaction has begun; the previous one succeeded unless `doubt` or `forget` ran."""
        for key, value in self._there.items():
            if key not in self._contended:
                self._known.put(key, value, len(value or b""))
        self._read.clear()
        self._there.clear()
        if self._doubted:
            self._look_again()

    def save(self) -> None:
        """A savepoint has begun, to which `roll_back` returns."""
        self._overwritten.clear()

    def roll_back(self) -> None:
        """What was written since `save` was rolled back.

        Reads are still compared at the end, including those of the failed handler: its failure may
        result from what it read.
        """
        self._handler.clear()
        self._commit.clear()
        for key, before in self._overwritten.items():
            if before is None or isinstance(before, bytes):
                self._there[key] = before
            else:
                del self._there[key]
        self._overwritten.clear()

    def flush(self) -> None:
        """Write what handlers have changed.

        Raises:
            Contended: another process has written some of it since it was read.
        """
        changes = sorted(self._commit.items())
        self._commit.clear()
        if not changes:
            return
        writes: dict[str, list[tuple[object, ...]]] = {
            statement: [] for statement in (_CHANGE, _ADD, _PUT, _TAKE, _DELETE)
        }
        for key, value in changes:
            before = self._there.get(key, _UNKNOWN)
            if before is None:
                if value is not None:
                    writes[_ADD].append((self._pipeline, key, value))
            elif value is None:
                blind = before is _UNKNOWN
                where = (self._pipeline, key)
                writes[_DELETE if blind else _TAKE].append(where if blind else (*where, before))
            elif before is _UNKNOWN:
                writes[_PUT].append((self._pipeline, key, value))
            else:
                writes[_CHANGE].append((value, self._pipeline, key, before))
        for statement, rows in writes.items():
            written = self.database.executemany(statement, rows) if rows else 0
            if written != len(rows) and statement != _DELETE:
                raise Contended(f"{self._pipeline}: another process has written the same state")
        for key, value in changes:
            self._overwritten.setdefault(key, self._there.get(key, _UNKNOWN))
            self._there[key] = value

    def check(self) -> None:
        """Check, just before the commit, that what was read and not written is unchanged.

        Raises:
            Contended: it has changed.
        """
        read = {key: value for key, value in self._read.items() if self._there[key] is value}
        found = self._stored(read)
        if any(found.get(key) != value for key, value in read.items()):
            raise Contended(f"{self._pipeline}: another process has written what was read here")

    def doubt(self) -> None:
        """The commit failed with a conflict: look up later which values others have changed."""
        self._doubted.update(self._read)
        self._clear()

    def forget(self) -> None:
        """Clear the cache: the commit has failed, or another process has written."""
        super().forget()
        self._doubted.clear()
        self._clear()

    def _find(self, key: str) -> bytes | None:
        if key in self._there:
            return self._there[key]
        value = self._load(key) if key in self._contended else super()._find(key)
        self._read[key] = self._there[key] = value
        return value

    def _clear(self) -> None:
        self._handler.clear()
        self._commit.clear()
        self._read.clear()
        self._there.clear()

    def _look_again(self) -> None:
        found = self._stored(self._doubted)
        for key, before in self._doubted.items():
            value = found.get(key)
            if value != before:
                if len(self._contended) >= CONTENDED:
                    self._contended.clear()
                self._contended.add(key)
            self._read[key] = self._there[key] = value
        self._doubted.clear()

    def _stored(self, keys: Iterable[str]) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        rest = iter(keys)
        while chunk := list(islice(rest, CHUNK)):
            chunk += chunk[-1:] * (CHUNK - len(chunk))
            found.update(self.database.execute(_LOOK, (self._pipeline, *chunk)).fetchall())
        return found
