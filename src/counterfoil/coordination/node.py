"""The embedded node: a revisioned key-value store with leases, durable in SQLite.

Its operations are etcd's: every write has a revision, keys may be attached to a lease, and a write
may be conditional on a revision. Lease deadlines are kept in memory, and the caller passes the
time. After a restart each lease starts a whole time to live anew, so it can only end later than
promised.
"""

import sqlite3
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from counterfoil.coordination.client import KeyValue

_SCHEMA = """
CREATE TABLE IF NOT EXISTS revision (number INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS leases (id INTEGER PRIMARY KEY AUTOINCREMENT, ttl REAL NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS keys (
    key TEXT PRIMARY KEY, value TEXT NOT NULL, create_revision INTEGER NOT NULL,
    mod_revision INTEGER NOT NULL, lease INTEGER NOT NULL) STRICT, WITHOUT ROWID;
INSERT INTO revision SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM revision);
"""


class Node:
    """The store in the file `path`; `now` is always in seconds of a monotonic clock."""

    def __init__(self, path: Path, now: float) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.executescript(_SCHEMA)
        self._deadlines: dict[int, tuple[float, float]] = {
            lease: (now + ttl, ttl)
            for lease, ttl in self._connection.execute("SELECT id, ttl FROM leases")
        }

    @property
    def revision(self) -> int:
        """The revision of the last change."""
        return self._connection.execute("SELECT number FROM revision").fetchone()[0]

    def grant(self, ttl: float, now: float) -> int:
        """A new lease of `ttl` seconds."""
        cursor = self._connection.execute("INSERT INTO leases (ttl) VALUES (?)", (ttl,))
        lease = cursor.lastrowid
        assert lease is not None
        self._deadlines[lease] = (now + ttl, ttl)
        return lease

    def keep_alive(self, lease: int, now: float) -> bool:
        """Renew a lease for its whole time to live; False if it has ended."""
        if lease not in self._deadlines or self._deadlines[lease][0] <= now:
            return False
        ttl = self._deadlines[lease][1]
        self._deadlines[lease] = (now + ttl, ttl)
        return True

    def revoke(self, lease: int) -> bool:
        """End a lease and delete its keys; returns whether any key was deleted.

        Raises:
            sqlite3.Error: such as a full disk; the lease is unchanged.
        """
        with self._transaction() as connection:
            deleted = connection.execute("DELETE FROM keys WHERE lease = ?", (lease,)).rowcount
            connection.execute("DELETE FROM leases WHERE id = ?", (lease,))
            if deleted:
                self._advance()
        self._deadlines.pop(lease, None)  # after the commit: if that fails, the lease can still end
        return deleted > 0

    def expire(self, now: float) -> bool:
        """End all expired leases; returns whether any key was deleted.

        Raises:
            sqlite3.Error: the remaining leases end at the next call.
        """
        ended = [lease for lease, (deadline, _) in self._deadlines.items() if deadline <= now]
        return sum(self.revoke(lease) for lease in ended) > 0  # `any` would stop at the first

    def range(self, prefix: str) -> list[KeyValue]:
        """All keys that begin with `prefix`, in order."""
        return [
            KeyValue(*row)
            for row in self._connection.execute(
                "SELECT * FROM keys WHERE substr(key, 1, ?) = ? ORDER BY key",
                (len(prefix), prefix),
            )
        ]

    def put(
        self, key: str, value: str, lease: int = 0, if_revision: int | None = None
    ) -> KeyValue | None:
        """Set a key; None if the lease has ended, or if the key has changed since `if_revision`.

        `if_revision` is the `mod_revision` that the caller has seen, 0 for a key that must not
        exist; without it the key is set unconditionally.
        """
        if lease and lease not in self._deadlines:
            return None
        with self._transaction() as connection:
            earlier = connection.execute(
                "SELECT create_revision, mod_revision FROM keys WHERE key = ?", (key,)
            ).fetchone()
            if if_revision is not None and if_revision != (0 if earlier is None else earlier[1]):
                return None
            revision = self._advance()
            created = revision if earlier is None else earlier[0]
            connection.execute(
                "INSERT OR REPLACE INTO keys VALUES (?, ?, ?, ?, ?)",
                (key, value, created, revision, lease),
            )
        return KeyValue(key, value, created, revision, lease)

    @contextmanager
    def _transaction(self) -> Generator[sqlite3.Connection, None, None]:
        self._connection.execute("BEGIN IMMEDIATE")
        with self._connection:  # commits, or rolls back if that or anything before it fails
            yield self._connection

    def _advance(self) -> int:
        return self._connection.execute(
            "UPDATE revision SET number = number + 1 RETURNING number"
        ).fetchone()[0]
