"""The database port: what services and pipelines keep, in SQLite or in PostgreSQL.

SQL is written once, in what both understand: `?` for a parameter, `INTEGER`, `TEXT`, `REAL`,
`BLOB`, `ON CONFLICT`, `RETURNING`. SQLite takes it as it is; for PostgreSQL `dialect` translates.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol


class Cursor(Protocol):
    """The rows of one statement."""

    @property
    def rowcount(self) -> int:
        """Rows that a write has touched."""
        ...

    def fetchone(self) -> Any:
        """The next row as a tuple, or None."""
        ...

    def fetchall(self) -> list[Any]:
        """All rows that are left."""
        ...

    def __iter__(self) -> Iterator[Any]: ...


class Database(Protocol):
    """One connection, for one thread at a time; a lost one is opened again by its next use.

    Not within a transaction: whatever ends one early, the statements that follow in its block and
    the block's end raise `StoreUnavailable`, even if the first error was caught.

    Every method raises `StoreUnavailable` when the database can't be reached or can't write (a
    full disk, a lock that is held too long), and the driver's own errors when it is the statement
    that is wrong.
    """

    def create(self, statements: Iterable[str]) -> None:
        """Run the statements of a schema; each must do nothing when it was run before."""
        ...

    def execute(self, sql: str, parameters: Sequence[object] = ()) -> Cursor:
        """Run a statement."""
        ...

    def executemany(self, sql: str, rows: Iterable[Sequence[object]]) -> int:
        """Run a statement once for each row of parameters; returns the rows touched in all."""
        ...

    def transaction(self) -> AbstractContextManager[None]:
        """Commit at the end of the block, durably; roll back on any error.

        Inside of another transaction the block is a savepoint.
        """
        ...

    def reading(self) -> AbstractContextManager[None]:
        """See one moment of what is committed until the block's end, and write nothing in it."""
        ...

    def exclusive(self, name: str) -> None:
        """Wait until no other transaction is past this point, and keep others before it."""
        ...

    def shared(self, name: str) -> None:
        """Wait until nobody is `exclusive` under this name, and keep such out to the end.

        Any number of transactions may be here at once. Who waits for `exclusive` comes before
        those who ask later.
        """
        ...

    def enter_outbox(self) -> None:
        """Last thing before a transaction leaves events in the outbox: see that they are read.

        It may have to wait for the commits of others.
        """
        ...

    def lock_rows(self, sql: str, parameters: Sequence[object] = ()) -> Cursor:
        """Run a SELECT in a transaction whose rows are this transaction's until its end.

        Rows that another transaction has locked are left out, not waited for.
        """
        ...

    def close(self) -> None:
        """Close the connection."""
        ...
