"""Storage of sagas: instances with their progress, and their timelines.

Steps look up their predecessors' results in the timeline. Both styles of saga write the same lines.
"""

import json
from collections.abc import Sequence
from typing import Any, Final, Literal, TypeVar

import msgspec

from counterfoil.events.database import Database
from counterfoil.events.errors import EventsError
from counterfoil.events.messages import Record
from counterfoil.events.sagas.progress import Progress, Status
from counterfoil.events.sagas.saga import Step
from counterfoil.events.storable import storable

R = TypeVar("R")
Direction = Literal["do", "undo"]
Style = Literal["orchestration", "choreography"]
PRUNED: Final = 500
"""Ended sagas that one commit deletes; few, to keep it short."""
PRUNE_US: Final = 60_000_000
"""Pause between deletions, once one has found less than a commit's worth. Where sagas end all the
time, they also expire all the time, and each would get its own transaction."""
ERROR_LIMIT: Final = 1_000
"""Maximum characters of an error in a line; a dead letter has the traceback."""

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS saga_coordinators (
    saga TEXT PRIMARY KEY, fencing_token INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS saga_instances (
    saga TEXT NOT NULL, id INTEGER NOT NULL, style TEXT NOT NULL, status TEXT NOT NULL,
    step TEXT NOT NULL, tries INTEGER NOT NULL, waiting INTEGER NOT NULL, wake_us INTEGER,
    deadline_us INTEGER, lines INTEGER NOT NULL, error TEXT NOT NULL, started_us INTEGER NOT NULL,
    ended_us INTEGER, topic TEXT NOT NULL, partition INTEGER NOT NULL, "offset" INTEGER NOT NULL,
    key TEXT NOT NULL, value BLOB NOT NULL, headers TEXT NOT NULL, timestamp_us INTEGER NOT NULL,
    PRIMARY KEY (saga, id)) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS saga_instances_by_wake ON saga_instances (saga, wake_us);
CREATE INDEX IF NOT EXISTS saga_instances_by_end ON saga_instances (saga, ended_us);
CREATE INDEX IF NOT EXISTS saga_instances_by_start ON saga_instances (started_us);
CREATE TABLE IF NOT EXISTS saga_lines (
    saga TEXT NOT NULL, id INTEGER NOT NULL, number INTEGER NOT NULL, step TEXT NOT NULL,
    direction TEXT NOT NULL, outcome TEXT NOT NULL, attempt INTEGER NOT NULL, error TEXT NOT NULL,
    result BLOB, at_us INTEGER NOT NULL,
    PRIMARY KEY (saga, id, number)) STRICT, WITHOUT ROWID;
"""
COLUMNS: Final = (
    "saga, id, style, status, step, tries, waiting, wake_us, deadline_us, lines, error, "
    'started_us, ended_us, topic, partition, "offset", key, value, headers, timestamp_us'
)


class Instance(msgspec.Struct):
    """One row: a saga's progress, and the event that started it."""

    saga: str
    id: int
    style: Style
    status: Status
    step: str
    tries: int
    waiting: bool
    wake_us: int | None
    deadline_us: int | None
    lines: int
    error: str
    started_us: int
    ended_us: int | None
    topic: str
    partition: int
    offset: int
    key: str
    value: bytes
    headers: dict[str, str]
    timestamp_us: int

    def record(self) -> Record:
        """The event that started it."""
        return Record(
            topic=self.topic,
            partition=self.partition,
            offset=self.offset,
            event_id=self.id,
            key=self.key,
            value=self.value,
            headers=self.headers,
            timestamp_us=self.timestamp_us,
        )

    def progress(self, steps: Sequence[Step[Any, Any]]) -> Progress:
        """Its progress in `steps`.

        Raises:
            EventsError: its current step is no longer declared.
        """
        for index, step in enumerate(steps):
            if step.name == self.step:
                if self.status == "compensating" and step.undo is None:
                    break
                return Progress(self.status, index, self.tries, self.waiting, self.wake_us)
        raise EventsError(
            f"saga {self.saga} {self.id} stands at {self.step!r}, which is not declared any more",
            hint="bring the step back, then replay the dead letter",
        )


class Instances:
    """The tables, in the database of the pipelines."""

    def __init__(self, database: Database) -> None:
        self._database = database
        database.create([SCHEMA])

    def fence(self, saga: str, fencing_token: int) -> bool:
        """Claim a transaction for a token; False if a newer one was seen.

        Waits for another coordinator's commit.
        """
        self._database.execute(
            "INSERT INTO saga_coordinators VALUES (?, 0) ON CONFLICT DO NOTHING", (saga,)
        )
        claimed = self._database.execute(
            "UPDATE saga_coordinators SET fencing_token = ? WHERE saga = ? AND fencing_token <= ?",
            (fencing_token, saga, fencing_token),
        )
        return claimed.rowcount == 1

    def add(self, instance: Instance) -> bool:
        """Add an instance; False if one with this id exists."""
        added = self._database.execute(
            f"INSERT INTO saga_instances ({COLUMNS}) "  # noqa: S608
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
            "ON CONFLICT (saga, id) DO NOTHING",
            _row(instance),
        )
        return added.rowcount == 1

    def find(self, saga: str, number: int) -> Instance | None:
        """One instance."""
        row = self._database.execute(
            f"SELECT {COLUMNS} FROM saga_instances WHERE saga = ? AND id = ?",  # noqa: S608
            (saga, number),
        ).fetchone()
        return None if row is None else instance_of(row)

    def due(self, saga: str, now_us: int, limit: int, *, heard_us: int) -> list[Instance]:
        """Instances that are due, those that have waited longest first.

        Those that wait for an answer are included if their deadlines are not after `heard_us`.
        """
        return [
            instance_of(row)
            for row in self._database.execute(
                f"SELECT {COLUMNS} FROM saga_instances "  # noqa: S608
                "WHERE saga = ? AND wake_us <= ? AND (waiting = 0 OR wake_us <= ?) "
                "ORDER BY wake_us LIMIT ?",
                (saga, now_us, heard_us, limit),
            )
        ]

    def late(self, saga: str, now_us: int, heard_us: int) -> int | None:
        """The last deadline of an answer that has passed and is after `heard_us`, or None."""
        return self._database.execute(
            "SELECT max(wake_us) FROM saga_instances "
            "WHERE saga = ? AND wake_us <= ? AND wake_us > ? AND waiting = 1",
            (saga, now_us, heard_us),
        ).fetchone()[0]

    def save(self, instance: Instance) -> None:
        """Write an instance's progress."""
        self._database.execute(
            "UPDATE saga_instances SET status = ?, step = ?, tries = ?, waiting = ?, wake_us = ?, "
            "lines = ?, error = ?, started_us = ?, ended_us = ?, key = ? WHERE saga = ? AND id = ?",
            (
                instance.status,
                instance.step,
                instance.tries,
                int(instance.waiting),
                instance.wake_us,
                instance.lines,
                instance.error,
                instance.started_us,
                instance.ended_us,
                instance.key,
                instance.saga,
                instance.id,
            ),
        )

    def replace_event(self, instance: Instance, value: bytes) -> None:
        """Replace the event that started an instance."""
        instance.value = value
        self._database.execute(
            "UPDATE saga_instances SET value = ? WHERE saga = ? AND id = ?",
            (value, instance.saga, instance.id),
        )

    def note(
        self,
        instance: Instance,
        step: str,
        outcome: str,
        *,
        at_us: int,
        direction: Direction = "do",
        attempt: int = 1,
        error: str = "",
        result: bytes | None = None,
    ) -> None:
        """Add a timeline entry; `save` must follow in the same transaction."""
        instance.lines += 1
        error = storable(error[:ERROR_LIMIT])
        instance.error = error or instance.error
        self._database.execute(
            "INSERT INTO saga_lines VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                instance.saga,
                instance.id,
                instance.lines,
                step,
                direction,
                outcome,
                attempt,
                error,
                result,
                at_us,
            ),
        )

    def result(self, instance: Instance, step: Step[Any, R]) -> R:
        """A step's result: what it returned, or its answer.

        Raises:
            EventsError: it was not done.
        """
        row = self._database.execute(
            "SELECT result FROM saga_lines WHERE saga = ? AND id = ? AND step = ? "
            "AND direction = 'do' AND outcome = 'done'",
            (instance.saga, instance.id, step.name),
        ).fetchone()
        if row is None:
            raise EventsError(f"step {step.name} of saga {instance.id} was not done")
        return msgspec.json.decode(row[0], type=step.result)

    def prune(self, saga: str, before_us: int) -> int:
        """Delete some instances that ended before a time; returns how many."""
        ended = self._database.execute(
            "SELECT id FROM saga_instances WHERE saga = ? AND ended_us < ? LIMIT ?",
            (saga, before_us, PRUNED),
        ).fetchall()
        with self._database.transaction():
            for table in ("saga_lines", "saga_instances"):
                self._database.executemany(
                    f"DELETE FROM {table} WHERE saga = ? AND id = ?",  # noqa: S608
                    [(saga, number) for (number,) in ended],
                )
        return len(ended)


class Forgetting:
    """Deletes a saga's ended instances, a few at a time between other work."""

    def __init__(self, instances: Instances, saga: str, retention_seconds: float) -> None:
        self._instances = instances
        self._saga = saga
        self._retention_us = int(retention_seconds * 1_000_000)
        self._looked_us = 0

    def step(self, now_us: int) -> int:
        """Delete some; returns how many."""
        if 0 <= now_us - self._looked_us < PRUNE_US:
            return 0
        forgotten = self._instances.prune(self._saga, now_us - self._retention_us)
        if forgotten < PRUNED:
            self._looked_us = now_us
        return forgotten


def instance_of(row: Sequence[Any]) -> Instance:
    """An instance from a row of `COLUMNS`."""
    values = list(row)
    values[6] = bool(values[6])
    values[18] = json.loads(values[18])
    return Instance(*values)


def _row(instance: Instance) -> list[object]:
    values = list(msgspec.structs.astuple(instance))
    values[6] = int(instance.waiting)
    values[18] = json.dumps(instance.headers)
    return values
