"""A service's database: commands with their events and answers, many to a commit.

One thread writes. It takes whatever commands wait, runs each in a savepoint of one transaction,
commits once, and only then lets the answers go: at some 600 syncs a second, a sync for each request
would be the limit of the shop. An answer is stored with the effect it belongs to, so whoever
repeats an Idempotency-Key gets the same answer, from any instance, after any crash.
"""

import json
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TypeVar

from counterfoil import faults
from counterfoil.errors import CounterfoilError
from counterfoil.events import outbox
from counterfoil.events.errors import KeyReused, StoreUnavailable
from counterfoil.events.messages import Message
from counterfoil.events.sqlite import connect
from counterfoil.events.topics import Topic

T = TypeVar("T")
BATCH: Final = 512
WAITING: Final = 4_096
"""Commands that may wait; beyond that a client is better served by a 503 at once."""
SABOTAGE_SECONDS: Final = 0.1
"""How long a commit comes after its answers when that bug is switched on: long enough for them to
reach the clients, so that a crash in between always shows."""

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS idempotency (
    key TEXT PRIMARY KEY, request_hash BLOB NOT NULL, status INTEGER NOT NULL, body BLOB NOT NULL,
    headers TEXT NOT NULL, created_us INTEGER NOT NULL) STRICT, WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Reply:
    """What is answered: an HTTP status, a body and headers."""

    status: int
    body: bytes
    headers: dict[str, str]


class Unit:
    """What a command may use: its database, and events that leave with its rows or not at all."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        headers: dict[str, str],
        next_id: Callable[[], int],
        now_us: int,
    ) -> None:
        self.headers = headers
        self._connection = connection
        self._next_id = next_id
        self._now_us = now_us

    def new_id(self) -> int:
        """A Snowflake id: unique over all instances, growing with time."""
        return self._next_id()

    @property
    def day(self) -> str:
        """The day (UTC) on which this command runs, such as 2026-01-31."""
        return datetime.fromtimestamp(self._now_us // 1_000_000, UTC).date().isoformat()

    def execute(self, sql: str, parameters: Sequence[object] = ()) -> sqlite3.Cursor:
        """Run one SQL statement in this command's transaction."""
        return self._connection.execute(sql, parameters)

    def publish(self, topic: Topic[T], value: T, *, key: str, event_id: int | None = None) -> None:
        """Leave an event in the outbox; events of one key stay in order."""
        outbox.insert(
            self._connection,
            Message(
                self._next_id() if event_id is None else event_id,
                topic.name,
                key,
                topic.encode(value),
                self.headers,
                self._now_us,
            ),
        )


@dataclass(frozen=True, slots=True)
class Command:
    """A write to be done once for its key."""

    idempotency_key: str
    request_hash: bytes
    headers: dict[str, str]
    handle: Callable[[Unit], Reply]


_Outcome = Reply | Exception


class ServiceStore:
    """The database at `path`; `schema` creates the service's own tables."""

    def __init__(
        self,
        path: Path,
        schema: Sequence[str],
        *,
        next_id: Callable[[], int],
        clock_us: Callable[[], int],
    ) -> None:
        self._connection = connect(path)
        for statement in (_SCHEMA, outbox.SCHEMA, *schema):
            self._connection.executescript(statement)
        self._next_id = next_id
        self._clock_us = clock_us
        self._waiting: queue.Queue[tuple[Command, Future[Reply]] | None] = queue.Queue(WAITING)
        self._thread = threading.Thread(target=self._write, name="group-commit", daemon=True)
        self._thread.start()

    def submit(self, command: Command) -> "Future[Reply]":
        """Hand a command over; the future is done once its effect is durable.

        The future raises `KeyReused`, `StoreUnavailable`, or what the command raised.
        """
        future: Future[Reply] = Future()
        try:
            self._waiting.put_nowait((command, future))
        except queue.Full:
            future.set_exception(StoreUnavailable("too many requests wait for the disk"))
        return future

    def close(self) -> None:
        """Finish what waits, then close."""
        self._waiting.put(None)
        self._thread.join()
        self._connection.close()

    def _write(self) -> None:
        while (first := self._waiting.get()) is not None:
            batch = [first]
            while len(batch) < BATCH:
                try:
                    following = self._waiting.get_nowait()
                except queue.Empty:
                    break
                if following is None:
                    self._waiting.put(None)
                    break
                batch.append(following)
            self._commit(batch)

    def _commit(self, batch: list[tuple[Command, "Future[Reply]"]]) -> None:
        connection = self._connection
        early = faults.sabotaged("acknowledge-before-commit")
        try:
            connection.execute("BEGIN IMMEDIATE")
            now_us = self._clock_us()
            outcomes = [self._run(command, now_us) for command, _ in batch]
            token = connection.execute("SELECT max(seq) FROM outbox").fetchone()[0] or 0
            if early:
                _settle(batch, outcomes, token)
                time.sleep(SABOTAGE_SECONDS)
            faults.point("service.before-commit")
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            unavailable = StoreUnavailable(f"the payment was not stored: {error}")
            for _, future in batch:
                if not future.done():
                    future.set_exception(unavailable)
            return
        faults.point("service.after-commit")
        if not early:
            _settle(batch, outcomes, token)

    def _run(self, command: Command, now_us: int) -> _Outcome:
        connection = self._connection
        if not faults.sabotaged("idempotency-off"):
            earlier = connection.execute(
                "SELECT request_hash, status, body, headers FROM idempotency WHERE key = ?",
                (command.idempotency_key,),
            ).fetchone()
            if earlier is not None:
                request_hash, status, body, headers = earlier
                if request_hash != command.request_hash:
                    return KeyReused("this key was used with another request")
                return Reply(status, body, json.loads(headers))
        connection.execute("SAVEPOINT command")
        try:
            reply = command.handle(Unit(connection, command.headers, self._next_id, now_us))
            connection.execute(
                "INSERT OR REPLACE INTO idempotency VALUES (?, ?, ?, ?, ?, ?)",
                (
                    command.idempotency_key,
                    command.request_hash,
                    reply.status,
                    reply.body,
                    json.dumps(reply.headers),
                    now_us,
                ),
            )
        except sqlite3.OperationalError:
            raise  # the disk or the file, not this command: nothing of the batch may stand
        except Exception as error:
            connection.execute("ROLLBACK TO command")
            connection.execute("RELEASE command")
            if isinstance(error, CounterfoilError):
                return StoreUnavailable(str(error))
            return error
        connection.execute("RELEASE command")
        return reply


def _settle(
    batch: list[tuple[Command, "Future[Reply]"]], outcomes: list[_Outcome], token: int
) -> None:
    for (_, future), outcome in zip(batch, outcomes, strict=True):
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        elif future.set_running_or_notify_cancel():
            headers = {**outcome.headers, "counterfoil-consistency-token": str(token)}
            future.set_result(Reply(outcome.status, outcome.body, headers))
