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
"""Longer than a paused neighbour holds the write lock in any drill, shorter than a client waits."""
SECURE_DELETE: Final = "FAST"
"""Debian's SQLite overwrites what is deleted with zeros, in its default: retention would write all
that it forgets once more, and writers would wait for that. So only what is written anyway is."""
_DAMAGED: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
"""What is no OperationalError to Python, and no fault of the statement: a handler that met it would
have its events made dead letters."""


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
        """Switch to write-ahead logging, if nobody has yet.

        Two that open a new file at once hold what the other waits for. SQLite then gives one of
        them an error at once, and not after the time that it waits elsewhere.
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
            # Who may only read and writes has a wrong statement; else the disk takes nothing.
            if not (self._reading and error.sqlite_errorcode == sqlite3.SQLITE_READONLY):
                _raise_if_unavailable(error)
            raise

    def executemany(self, sql: str, rows: Iterable[Sequence[object]]) -> int:
        """Run a statement once for each row of parameters; returns the rows touched in all."""
        self._check_transaction()
        try:
            return max(self._connection.executemany(sql, rows).rowcount, 0)
        except sqlite3.DatabaseError as error:
            _raise_if_unavailable(error)
            raise

    @contextmanager
    def transaction(self) -> Generator[None, None, None]:
        """Hold the write lock from the first statement to the commit; a savepoint inside of one."""
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
            if self._connection.in_transaction:  # SQLite may have rolled back by itself
                for statement in undo:
                    self._connection.execute(statement)
            raise
        finally:
            self._depth -= 1

    @contextmanager
    def reading(self) -> Generator[None, None, None]:
        """One moment of the file, from the first statement on; who writes is not held up."""
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
        """Nothing is left to do: a file has one writing transaction at a time."""

    def shared(self, name: str) -> None:
        """Nothing is left to do: a file has one writing transaction at a time."""

    def enter_outbox(self) -> None:
        """Nothing is left to do: rows are committed in the order of their numbers."""

    def lock_rows(self, sql: str, parameters: Sequence[object] = ()) -> sqlite3.Cursor:
        """Run a SELECT: a file has one writing transaction at a time."""
        return self.execute(sql, parameters)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def _check_transaction(self) -> None:
        """What follows an error that has ended the transaction must not commit by itself."""
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
