"""The table of tasks: waiting ones, and leased ones.

A leased task is invisible until its lease ends. Each time a task is taken its `attempt` increases,
and a worker must name that attempt to extend, finish or fail it: so a worker whose lease has
expired can't change anything. Finished tasks are deleted.

Higher priorities come first, except that every tenth task that a worker takes is the one that has
waited longest, whatever its priority. So low priorities don't starve: a task is taken after at most
ten times as many others as were due before it. A bound on time instead would invert priorities
under overload: all tasks would be overdue, and urgent ones would wait for all that came before.
"""

import heapq
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Final, Protocol

import msgspec

from counterfoil.events.database import Cursor, Database

LEVELS: Final[Mapping[str, int]] = MappingProxyType({"high": 0, "normal": 1, "low": 2})
"""Few, since each is searched separately: that way the index yields the next task directly."""

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS tasks (
    id INTEGER PRIMARY KEY AUTOINCREMENT, queue TEXT NOT NULL, level INTEGER NOT NULL,
    visible_us INTEGER NOT NULL, attempt INTEGER NOT NULL, taken_us INTEGER, is_unique TEXT,
    content BLOB NOT NULL, sent_us INTEGER NOT NULL, UNIQUE (queue, is_unique)) STRICT;
CREATE INDEX IF NOT EXISTS tasks_by_visibility ON tasks (queue, level, visible_us);
"""


OLDEST: Final = 10
"""One in so many tasks that a worker takes is the oldest; the rest go by priority."""


class Task(msgspec.Struct, frozen=True):
    """A task as it was taken."""

    id: int
    attempt: int
    content: bytes
    sent_us: int
    visible_us: int
    """Since when it could be taken."""
    level: int
    unique: str | None


class _Session(Protocol):
    @property
    def now_us(self) -> int: ...
    def execute(self, sql: str, parameters: Sequence[object] = ()) -> Cursor: ...


class Waiting:
    """Adds tasks to the table, in a handler's transaction."""

    def __init__(self, session: _Session, queue: str) -> None:
        self._session = session
        self._queue = queue

    def add(self, content: bytes, *, level: int, visible_us: int, unique: str | None) -> bool:
        """Add a task; False if one with its unique key exists."""
        added = self._session.execute(
            "INSERT INTO tasks "
            "(queue, level, visible_us, attempt, taken_us, is_unique, content, sent_us) "
            "VALUES (?, ?, ?, 0, NULL, ?, ?, ?) ON CONFLICT (queue, is_unique) DO NOTHING",
            (self._queue, level, visible_us, unique, content, self._session.now_us),
        )
        return added.rowcount == 1


class Taking:
    """Takes and returns tasks of one queue, for one worker."""

    def __init__(self, database: Database, queue: str) -> None:
        self._database = database
        self._queue = queue
        self._number = 0
        """The number of tasks taken so far."""
        database.create([SCHEMA])

    def due(self, now_us: int) -> bool:
        """Whether there is anything to take; takes no locks."""
        return any(self._visible(level, now_us, 1, lock=False) for level in LEVELS.values())

    def take(self, now_us: int, until_us: int, limit: int) -> list[Task]:
        """Lease due tasks until `until_us`, in the caller's transaction: those that have waited
        longest for each tenth, then by priority, and within a priority the oldest first."""
        turns = (self._number + limit) // OLDEST - self._number // OLDEST
        shares = self._oldest(now_us, turns) if turns else {}
        taken = self._take(shares, now_us, until_us)
        for level in LEVELS.values():
            if len(taken) == limit:
                break
            taken += self._take({level: limit - len(taken)}, now_us, until_us)
        self._number += len(taken)
        return taken

    def extend(self, tasks: Iterable[Task], until_us: int) -> None:
        """Extend the leases of tasks, in the caller's transaction."""
        self._database.executemany(
            "UPDATE tasks SET visible_us = ? WHERE id = ? AND attempt = ?",
            [(until_us, task.id, task.attempt) for task in tasks],
        )

    def finish(self, task: Task) -> bool:
        """Delete a task; False if another worker has taken it meanwhile."""
        finished = self._database.execute(
            "DELETE FROM tasks WHERE id = ? AND attempt = ?", (task.id, task.attempt)
        )
        return finished.rowcount == 1

    def give_back(self, task: Task, visible_us: int) -> None:
        """Make a task available again, from a time on."""
        self._database.execute(
            "UPDATE tasks SET visible_us = ?, taken_us = NULL WHERE id = ? AND attempt = ?",
            (visible_us, task.id, task.attempt),
        )

    def leave(self, task: Task, now_us: int) -> None:
        """Return a task of a worker that stops, without counting a try.

        The worker acknowledges nothing after this, so the next one may use the same attempt. Until
        the task is taken, an earlier worker whose lease expired can acknowledge it again.
        """
        self._database.execute(
            "UPDATE tasks SET visible_us = ?, taken_us = NULL, attempt = attempt - 1 "
            "WHERE id = ? AND attempt = ?",
            (now_us, task.id, task.attempt),
        )

    def _oldest(self, now_us: int, number: int) -> dict[int, int]:
        """How many tasks of each level are among the `number` oldest."""
        due = heapq.nsmallest(
            number,
            [
                (task.visible_us, level)
                for level in LEVELS.values()
                for task in self._visible(level, now_us, number, lock=False)
            ],
        )
        return Counter(level for _, level in due)

    def _take(self, shares: Mapping[int, int], now_us: int, until_us: int) -> list[Task]:
        """Lease the oldest tasks of some levels, as many of each as `shares` says."""
        taken = [
            task
            for level, number in sorted(shares.items())
            for task in self._visible(level, now_us, number, lock=True)
        ]
        self._database.executemany(
            "UPDATE tasks SET visible_us = ?, attempt = attempt + 1, taken_us = ? WHERE id = ?",
            [(until_us, now_us, task.id) for task in taken],
        )
        return [msgspec.structs.replace(task, attempt=task.attempt + 1) for task in taken]

    def _visible(self, level: int, now_us: int, limit: int, *, lock: bool) -> list[Task]:
        read = self._database.lock_rows if lock else self._database.execute
        return [
            Task(*row)
            for row in read(
                "SELECT id, attempt, content, sent_us, visible_us, level, is_unique FROM tasks "
                "WHERE queue = ? AND level = ? AND visible_us <= ? ORDER BY visible_us, id LIMIT ?",
                (self._queue, level, now_us, limit),
            ).fetchall()
        ]
