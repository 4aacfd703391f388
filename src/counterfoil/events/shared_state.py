"""Keyed state of a pipeline that several processes write.

Handlers may read and write any key, and mostly it is one of their event's own, which no other
process touches. So nothing is locked beforehand. A commit remembers what it has read, and writes
`WHERE value = ` that: a row that another process has changed meanwhile isn't there, the count is
too small, and the commit is undone (`Contended`). What was read and not written is compared at the
end. The same events are then handled once more, alone, by what is stored by then.

Keys that turned out to be shared are not remembered beyond a commit. A pipeline whose handlers all
write one key is as right as any other, and no faster than in one process.

Whoever writes a key without having read it overwrites it, as it would in one process. Two commits
at the same time that each read, and only read, what the other writes may both go through.
"""

from collections.abc import Iterable
from itertools import islice
from typing import Final

from counterfoil.events.database import Database
from counterfoil.events.errors import Contended
from counterfoil.events.state import State

CHUNK: Final = 256
"""Keys asked for at once. Always as many, the last one repeated, so that it is one statement for
the database to prepare."""
CONTENDED: Final = 10_000
"""Keys that are known to be shared; when there are more, all are given another chance."""
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
    """The state of `pipeline`, believed only as far as the database confirms it."""

    def __init__(self, database: Database, pipeline: str) -> None:
        super().__init__(database, pipeline)
        self._read: dict[str, bytes | None] = {}
        """What this commit was given, of keys that it has read."""
        self._there: dict[str, bytes | None] = {}
        """What its transaction sees of them now, with what it has written itself."""
        self._overwritten: dict[str, bytes | object | None] = {}
        """What its transaction saw of those that it has written since the last savepoint."""
        self._doubted: dict[str, bytes | None] = {}
        """What a commit was given that then came too late."""
        self._contended: set[str] = set()

    def begin(self) -> None:
        """A transaction has begun, and the one before has gone well unless somebody said no."""
        for key, value in self._there.items():
            if key not in self._contended:
                self._known.put(key, value, len(value or b""))
        self._read.clear()
        self._there.clear()
        if self._doubted:
            self._look_again()

    def save(self) -> None:
        """A savepoint has begun: what is written from now on, `roll_back` takes back."""
        self._overwritten.clear()

    def roll_back(self) -> None:
        """What was written since `save` is no more.

        What was read stays to be compared: by those handlers that came to their ends, and by the
        one that failed, which what it has read may have led to.
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
        """See that what was read and not written is still so, last thing before the commit.

        Raises:
            Contended: it is not.
        """
        read = {key: value for key, value in self._read.items() if self._there[key] is value}
        found = self._stored(read)
        if any(found.get(key) != value for key, value in read.items()):
            raise Contended(f"{self._pipeline}: another process has written what was read here")

    def doubt(self) -> None:
        """The commit came too late: find out what of it others have written."""
        self._doubted.update(self._read)
        self._clear()

    def forget(self) -> None:
        """Believe only the database: the commit has failed, or somebody else has written."""
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
