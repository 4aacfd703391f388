"""A pipeline's keyed state: cached within a commit, written with it.

Lookups go through three layers: the running handler's changes (dropped if it fails), the commit's
changes so far (written at its end), and a cache of what was read or written before. The cache
survives commits: only this pipeline's commits write its state, and each of them increments a count
in the database. A count that this process didn't write means that another process has written, and
the cache is cleared (`terms.py`). For several concurrent writers see `shared_state.py`.
"""

from typing import Final

from counterfoil.events.database import Database
from counterfoil.events.generations import Generations

REMEMBERED_BYTES: Final = 32 * 1024 * 1024
"""Size of one cache generation: some hundred thousand keys."""
OWN: Final = "\x01"
"""Prefix of the package's own keys: windows, events that wait to be joined, rows of tables."""
_UNKNOWN: Final = object()


class State:
    """Bytes by key, committed with the events that changed it."""

    def __init__(self, database: Database, pipeline: str) -> None:
        self.database = database
        self._pipeline = pipeline
        self._handler: dict[str, bytes | None] = {}
        self._commit: dict[str, bytes | None] = {}
        self._known: Generations[str, bytes | object | None] = Generations(REMEMBERED_BYTES)

    def get(self, key: str) -> bytes | None:
        """The value under `key`, or None."""
        if key in self._handler:
            return self._handler[key]
        if key in self._commit:
            return self._commit[key]
        return self._find(key)

    def put(self, key: str, value: bytes) -> None:
        """Set the value under `key`.

        Raises:
            TypeError: the value is not bytes.
        """
        if not isinstance(value, bytes):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"state keeps bytes, not {type(value).__name__}")
        self._handler[key] = value

    def delete(self, key: str) -> None:
        """Delete `key`."""
        self._handler[key] = None

    def begin(self) -> None:
        """A transaction has begun."""

    def accept(self) -> None:
        """The handler has succeeded."""
        if self._handler:
            self._commit.update(self._handler)
            self._handler.clear()

    def undo(self) -> None:
        """The handler has failed."""
        self._handler.clear()

    def save(self) -> None:
        """A savepoint has begun, to which `roll_back` returns."""

    def roll_back(self) -> None:
        """What was written since `save` was rolled back."""
        self.forget()

    def flush(self) -> None:
        """Write what handlers have changed; keys in order, so that neighbours share a page."""
        if not self._commit:
            return
        changes = sorted(self._commit.items())
        kept = [(self._pipeline, key, value) for key, value in changes if value is not None]
        if kept:
            self.database.executemany(
                "INSERT INTO state VALUES (?, ?, ?) ON CONFLICT (pipeline, key) "
                "DO UPDATE SET value = excluded.value",
                kept,
            )
        if len(kept) < len(changes):
            self.database.executemany(
                "DELETE FROM state WHERE pipeline = ? AND key = ?",
                [(self._pipeline, key) for key, value in changes if value is None],
            )
        for key, value in changes:
            self._known.put(key, value, len(value or b""))
        self._commit.clear()

    def check(self) -> None:
        """Check, just before the commit, that what was read is unchanged."""

    def doubt(self) -> None:
        """The commit failed because others have changed what it read."""
        self.forget()

    def forget(self) -> None:
        """Clear the cache: the commit has failed, or another process has written."""
        self._handler.clear()
        self._commit.clear()
        self._known.clear()

    def _find(self, key: str) -> bytes | None:
        """The value of a key that this commit's handlers have not changed."""
        known = self._known.get(key, _UNKNOWN)
        if known is None or isinstance(known, bytes):
            return known
        value = self._load(key)
        self._known.put(key, value, len(value or b""))
        return value

    def _load(self, key: str) -> bytes | None:
        row: tuple[bytes] | None = self.database.execute(
            "SELECT value FROM state WHERE pipeline = ? AND key = ?", (self._pipeline, key)
        ).fetchone()
        return None if row is None else row[0]
