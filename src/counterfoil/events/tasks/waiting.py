"""The table of tasks: waiting ones, and leased ones.

A task that is worked on is one that is not visible until its lease ends. Each time it is taken its
`attempt` grows, and whoever took it must name that attempt to extend, finish or fail it: a worker
whose lease has run out changes nothing any more. What is finished is deleted.

Urgent tasks come first, but not always, or those of low priority would wait for as long as urgent
ones keep coming. Every tenth that a worker takes is the one that has waited longest, whatever its
priority: a task is taken after ten times as many others, at most, as were due before it. A bound
on time instead would turn round once there is more to do than workers can: all would be overdue,
and the urgent ones among them wait for all that came before.
"""

import heapq
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Final, Protocol

import msgspec

from counterfoil.events.database import Cursor, Database

LEVELS: Final[Mapping[str, int]] = MappingProxyType({"high": 0, "normal": 1, "low": 2})
"""Few, since each is looked through by itself: that way the index gives the next task at once."""

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS tasks (
    id INTEGER PRIMARY KEY AUTOINCREMENT, queue TEXT NOT NULL, level INTEGER NOT NULL,
    visible_us INTEGER NOT NULL, attempt INTEGER NOT NULL, taken_us INTEGER, is_unique TEXT,
    content BLOB NOT NULL, sent_us INTEGER NOT NULL, UNIQUE (queue, is_unique)) STRICT;
CREATE INDEX IF NOT EXISTS tasks_by_visibility ON tasks (queue, level, visible_us);
"""


OLDEST: Final = 10
"""Of so many tasks that a worker takes, one is the oldest: urgent ones have nine tenths of it."""


class Task(msgspec.Struct, frozen=True):
    """A task as it was taken."""

    id: int
    attempt: int
    content: bytes
    sent_us: int
    visible_us: int
    """When it could be taken."""
    level: int
    unique: str | None


class _Session(Protocol):
    @property
    def now_us(self) -> int: ...
    def execute(self, sql: str, parameters: Sequence[object] = ()) -> Cursor: ...


class Waiting:
    """Puts tasks into the table, in the transaction of a handler."""

    def __init__(self, session: _Session, queue: str) -> None:
        self._session = session
        self._queue = queue

    def add(self, content: bytes, *, level: int, visible_us: int, unique: str | None) -> bool:
        """Add a task; False if one with its unique key is there."""
        added = self._session.execute(
            "INSERT INTO tasks "
            "(queue, level, visible_us, attempt, taken_us, is_unique, content, sent_us) "
            "VALUES (?, ?, ?, 0, NULL, ?, ?, ?) ON CONFLICT (queue, is_unique) DO NOTHING",
            (self._queue, level, visible_us, unique, content, self._session.now_us),
        )
        return added.rowcount == 1


class Taking:
    """Takes tasks of one queue, and gives them back; for one worker."""

    def __init__(self, database: Database, queue: str) -> None:
        self._database = database
        self._queue = queue
        self._number = 0
        """How many were taken."""
        database.create([SCHEMA])

    def due(self, now_us: int) -> bool:
        """Whether there is anything to take; looks, and locks nothing."""
        return any(self._visible(level, now_us, 1, lock=False) for level in LEVELS.values())

    def take(self, now_us: int, until_us: int, limit: int) -> list[Task]:
        """Take tasks that are due until a time, in the caller's transaction: the one that has
        waited longest where it is its turn, then urgent ones, and of those the oldest first."""
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
        """Keep tasks for longer, in the caller's transaction."""
        self._database.executemany(
            "UPDATE tasks SET visible_us = ? WHERE id = ? AND attempt = ?",
            [(until_us, task.id, task.attempt) for task in tasks],
        )

    def finish(self, task: Task) -> bool:
        """Delete a task; False if somebody else has taken it meanwhile."""
        finished = self._database.execute(
            "DELETE FROM tasks WHERE id = ? AND attempt = ?", (task.id, task.attempt)
        )
        return finished.rowcount == 1

    def give_back(self, task: Task, visible_us: int) -> None:
        """Let somebody take a task again, from a time on."""
        self._database.execute(
            "UPDATE tasks SET visible_us = ?, taken_us = NULL WHERE id = ? AND attempt = ?",
            (visible_us, task.id, task.attempt),
        )

    def leave(self, task: Task, now_us: int) -> None:
        """Give a task back whose worker ends, as if it had not been taken: that is no try.

        The worker acknowledges nothing after this, so whoever takes the task next may have the same
        attempt. A worker before that, whose lease ran out, has it again until then.
        """
        self._database.execute(
            "UPDATE tasks SET visible_us = ?, taken_us = NULL, attempt = attempt - 1 "
            "WHERE id = ? AND attempt = ?",
            (now_us, task.id, task.attempt),
        )

    def _oldest(self, now_us: int, number: int) -> dict[int, int]:
        """How many of each level are among the oldest, as many as `number`."""
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
        """The oldest of some levels, so many of each."""
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
