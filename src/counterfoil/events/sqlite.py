"""SQLite as a database of services and pipelines: durable on commit, many readers, one writer."""

import sqlite3
import time
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from counterfoil.events import scripts
from counterfoil.events.errors import StoreUnavailable

BUSY_MILLISECONDS: Final = 10_000
"""Longer than a paused process holds the write lock in any drill, shorter than clients wait."""
SECURE_DELETE: Final = "FAST"
"""Debian's SQLite by default overwrites deleted content with zeros: retention would write all that
it deletes once more, while writers wait. With FAST, only pages that are written anyway are
overwritten."""
_DAMAGED: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
"""Corruption: Python raises no OperationalError for it, but it is no fault of the statement, and
must not make a handler's events dead letters."""


class SqliteDatabase:
    """The database in the file `path`, with write-ahead logging and a sync at every commit."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._depth = 0
        """How many transactions and savepoints are open."""
        self._reading = False
        with _available():
            self._connection.execute(f"PRAGMA busy_timeout = {BUSY_MILLISECONDS}")
            self._log_ahead()
            self._connection.execute("PRAGMA synchronous = FULL")
            self._connection.execute(f"PRAGMA secure_delete = {SECURE_DELETE}")

    def _log_ahead(self) -> None:
        """Switch to write-ahead logging, if that isn't on yet.

        Two processes that open a new file at once would deadlock. SQLite then returns SQLITE_BUSY
        to one of them at once, regardless of the busy timeout.
        """
        deadline = time.monotonic() + BUSY_MILLISECONDS / 1_000
        while True:
            try:
                self._connection.execute("PRAGMA journal_mode = WAL")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
            else:
                return

    def create(self, statements: Iterable[str]) -> None:
        """Run the statements of a schema."""
        with _available():
            for script in statements:
                for statement in scripts.statements(script):
                    self._connection.execute(statement)

    def execute(self, sql: str, parameters: Sequence[object] = ()) -> sqlite3.Cursor:
        """Run a statement."""
        self._check_transaction()
        try:
            return self._connection.execute(sql, parameters)
        except sqlite3.DatabaseError as error:
            # Within `reading`, the statement is wrong; otherwise the file can't be written.
            if not (self._reading and error.sqlite_errorcode == sqlite3.SQLITE_READONLY):
                _raise_if_unavailable(error)
            raise

    def executemany(self, sql: str, rows: Iterable[Sequence[object]]) -> int:
        """Run a statement once for each row of parameters; returns the total rows affected."""
        self._check_transaction()
        try:
            return max(self._connection.executemany(sql, rows).rowcount, 0)
        except sqlite3.DatabaseError as error:
            _raise_if_unavailable(error)
            raise

    @contextmanager
    def transaction(self) -> Generator[None, None, None]:
        """Hold the write lock from the start to the commit; a savepoint inside a transaction."""
        if self._connection.in_transaction:
            begin, end, undo = (
                "SAVEPOINT part",
                "RELEASE part",
                ("ROLLBACK TO part", "RELEASE part"),
            )
        else:
            begin, end, undo = "BEGIN IMMEDIATE", "COMMIT", ("ROLLBACK",)
        self.execute(begin)
        self._depth += 1
        try:
            yield
            self.execute(end)
        except BaseException:
            if self._connection.in_transaction:  # SQLite may have rolled back already
                for statement in undo:
                    self._connection.execute(statement)
            raise
        finally:
            self._depth -= 1

    @contextmanager
    def reading(self) -> Generator[None, None, None]:
        """A snapshot, from the first statement on; doesn't block writers."""
        self.execute("PRAGMA query_only = ON")
        self.execute("BEGIN")
        self._depth += 1
        self._reading = True
        try:
            yield
        finally:
            self._depth -= 1
            self._reading = False
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            self._connection.execute("PRAGMA query_only = OFF")

    def exclusive(self, name: str) -> None:
        """Do nothing: a file has one writing transaction at a time."""

    def shared(self, name: str) -> None:
        """Do nothing: a file has one writing transaction at a time."""

    def enter_outbox(self) -> None:
        """Do nothing: rows are committed in the order of their numbers."""

    def lock_rows(self, sql: str, parameters: Sequence[object] = ()) -> sqlite3.Cursor:
        """Run a SELECT: a file has one writing transaction at a time."""
        return self.execute(sql, parameters)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def _check_transaction(self) -> None:
        """Raise if an error has ended the transaction: further statements would autocommit."""
        if self._depth and not self._connection.in_transaction:
            raise StoreUnavailable("SQLite: the transaction was rolled back after an earlier error")


@contextmanager
def _available() -> Generator[None, None, None]:
    try:
        yield
    except sqlite3.DatabaseError as error:
        _raise_if_unavailable(error)
        raise


def _raise_if_unavailable(error: sqlite3.DatabaseError) -> None:
    code = error.sqlite_errorcode & 0xFF
    if isinstance(error, sqlite3.OperationalError):
        unavailable = code != sqlite3.SQLITE_ERROR  # else the statement is wrong
    else:
        unavailable = code in _DAMAGED
    if unavailable:
        raise StoreUnavailable(f"SQLite: {error}") from error
