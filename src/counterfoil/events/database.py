"""The interface to the databases of services and pipelines, SQLite or PostgreSQL.

SQL is written once, in a common subset: `?` for a parameter, `INTEGER`, `TEXT`, `REAL`, `BLOB`,
`ON CONFLICT`, `RETURNING`. SQLite runs it unchanged; for PostgreSQL, `dialect` translates it.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol


class Cursor(Protocol):
    """The rows of one statement."""

    @property
    def rowcount(self) -> int:
        """The number of rows that a write has affected."""
        ...

    def fetchone(self) -> Any:
        """The next row as a tuple, or None."""
        ...

    def fetchall(self) -> list[Any]:
        """All remaining rows."""
        ...

    def __iter__(self) -> Iterator[Any]: ...


class Database(Protocol):
    """One connection, for one thread at a time; if lost, it is reopened on its next use.

    It is not reopened within a transaction: if one ends early, all further statements in its block
    and the end of the block raise `StoreUnavailable`, even if the first error was caught.

    Every method raises `StoreUnavailable` if the database can't be reached or can't write (a full
    disk, a lock that is held too long), and the driver's own errors if the statement is wrong.
    """

    def create(self, statements: Iterable[str]) -> None:
        """Run the statements of a schema; each must be idempotent."""
        ...

    def execute(self, sql: str, parameters: Sequence[object] = ()) -> Cursor:
        """Run a statement."""
        ...

    def executemany(self, sql: str, rows: Iterable[Sequence[object]]) -> int:
        """Run a statement once for each row of parameters; returns the total rows affected."""
        ...

    def transaction(self) -> AbstractContextManager[None]:
        """Commit at the end of the block, durably; roll back on any error.

        Inside another transaction the block is a savepoint.
        """
        ...

    def reading(self) -> AbstractContextManager[None]:
        """Run the block in a read-only transaction on one snapshot."""
        ...

    def exclusive(self, name: str) -> None:
        """Take an exclusive lock of this name until the transaction's end."""
        ...

    def shared(self, name: str) -> None:
        """Take a shared lock of this name until the transaction's end.

        Any number of transactions may share it. A waiting `exclusive` comes before later `shared`.
        """
        ...

    def enter_outbox(self) -> None:
        """Take the lock that orders outbox commits; call it just before inserting events.

        May wait for the commits of others.
        """
        ...

    def lock_rows(self, sql: str, parameters: Sequence[object] = ()) -> Cursor:
        """Run a SELECT that locks its rows until the transaction's end.

        Skips rows that another transaction has locked.
        """
        ...

    def close(self) -> None:
        """Close the connection."""
        ...
