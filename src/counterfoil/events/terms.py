"""Terms: which process, or which set of processes, may commit for a pipeline.

The number of processes is a pipeline's layout. A process that starts in another layout than is
stored begins a new term: it waits for the commits in progress, and from then on every commit of a
process of an earlier term is rejected, however long that one was paused. So partitions change
owners between two commits, and the new owner finds the positions and state of all that was
committed.

A pipeline in one process counts its commits in a row, on which duplicate processes wait for each
other. An unexpected count means that another process has written. Of several processes each has its
own count, or they would wait for each other's disk syncs. They have a common lock: shared for
commits, exclusive for beginning a term, for handling a dead letter, and for a retry after
`Contended`. The lock is fair, so nobody starves.
"""

from typing import Final

from counterfoil.events.database import Database
from counterfoil.events.errors import Superseded
from counterfoil.events.shares import ALL, Share

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS terms (
    consumer TEXT PRIMARY KEY, number INTEGER NOT NULL,
    processes INTEGER NOT NULL) STRICT, WITHOUT ROWID;
"""
COUNT: Final = ("", 0)
"""The topic and partition under which `offsets` stores a consumer's count of commits: beside its
positions, so that a commit to SQLite writes one page for both."""


class Term:
    """Checks before each commit whether a process, with its `share`, may commit."""

    def __init__(self, database: Database, consumer: str, share: Share = ALL) -> None:
        self._database = database
        self._consumer = consumer
        self._share = share
        self._own = f"{consumer}{share.name}"
        """The name under which its own commits are counted."""
        self._last = _count(database, self._own)
        self._next = self._last
        self._seen = _count(database, consumer)
        self._number = self._begin()

    def enter(self, *, alone: bool = False) -> bool:
        """Begin a commit; call it first in the transaction.

        Waits for duplicates of this process or, if `alone`, for all processes. Returns whether
        another process has written since this one's last commit, which invalidates its caches.

        Raises:
            Superseded: another term has begun; this process can't commit any more.
        """
        if self._share.of == 1:
            others = self._count_own()
            if others:
                self._check()
            return others
        if alone:
            self._database.exclusive(_lock(self._consumer))
        else:
            self._database.shared(_lock(self._consumer))
        seen = _count(self._database, self._consumer)
        others = seen != self._seen
        if others:
            self._check()
            self._seen = seen
        return self._count_own() or others

    def committed(self) -> None:
        """The last commit has succeeded."""
        self._last = self._next

    def _count_own(self) -> bool:
        """Count this commit; whether another process has counted one since the last.

        Mostly none has, and then the number is known: RETURNING it would take five times as long.
        """
        self._next = self._last + 1
        counted = self._database.execute(
            "UPDATE offsets SET next = ? "
            "WHERE consumer = ? AND topic = ? AND partition = ? AND next = ?",
            (self._next, self._own, *COUNT, self._last),
        ).rowcount
        if counted:
            return False
        self._next = count_commit(self._database, self._own)
        return self._next != self._last + 1

    def _begin(self) -> int:
        """Join the term of this layout, or begin it; returns its number."""
        found = self._stored()
        if found is not None and found[1] == self._share.of:
            return found[0]
        with self._database.transaction():
            interrupt(self._database, self._consumer)
            number = self._database.execute(
                "INSERT INTO terms VALUES (?, 1, ?) ON CONFLICT (consumer) DO UPDATE "
                "SET number = CASE WHEN terms.processes = excluded.processes THEN terms.number "
                "ELSE terms.number + 1 END, processes = excluded.processes RETURNING number",
                (self._consumer, self._share.of),
            ).fetchone()[0]
            self._last = _count(self._database, self._own)
            self._seen = _count(self._database, self._consumer)
        return number

    def _check(self) -> None:
        found = self._stored()
        if found is None or found[0] != self._number:
            now = "none" if found is None else str(found[1])
            raise Superseded(
                f"{self._consumer}: the term of {self._share.of} processes is over, {now} are now",
                hint="this process was left over; stop it",
            )

    def _stored(self) -> tuple[int, int] | None:
        return self._database.execute(
            "SELECT number, processes FROM terms WHERE consumer = ?", (self._consumer,)
        ).fetchone()


def shares_of(database: Database, consumer: str) -> list[Share]:
    """The shares of the processes in which a pipeline runs, or has last run."""
    row: tuple[int] | None = database.execute(
        "SELECT processes FROM terms WHERE consumer = ?", (consumer,)
    ).fetchone()
    return Share(0, 1 if row is None else row[0]).all


def interrupt(database: Database, consumer: str) -> None:
    """Lock out the commits of all processes of `consumer` until the transaction's end.

    Their next commits will clear their caches.
    """
    database.exclusive(_lock(consumer))
    count_commit(database, consumer)


def count_commit(database: Database, consumer: str) -> int:
    """Count a commit of `consumer`, first in its transaction; returns its number.

    Duplicate processes wait for each other here.
    """
    row = database.execute(
        "UPDATE offsets SET next = next + 1 "
        "WHERE consumer = ? AND topic = ? AND partition = ? RETURNING next",
        (consumer, *COUNT),
    ).fetchone()
    if row is None:  # the first one; an upsert every time would take five times as long
        row = database.execute(
            "INSERT INTO offsets VALUES (?, ?, ?, 1) ON CONFLICT (consumer, topic, partition) "
            "DO UPDATE SET next = offsets.next + 1 RETURNING next",
            (consumer, *COUNT),
        ).fetchone()
    return row[0]


def _count(database: Database, consumer: str) -> int:
    row: tuple[int] | None = database.execute(
        "SELECT next FROM offsets WHERE consumer = ? AND topic = ? AND partition = ?",
        (consumer, *COUNT),
    ).fetchone()
    return 0 if row is None else row[0]


def _lock(consumer: str) -> str:
    return f"pipeline {consumer}"
