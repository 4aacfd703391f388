"""A service's database: group commit of commands with their events and responses.

One thread writes. It takes all waiting commands, runs each in a savepoint of one transaction,
commits once, and only then sends the responses: at some 600 syncs a second, a sync for each request
would limit the service's throughput. A command first claims its Idempotency-Key, on which a
duplicate in another instance waits. The response is stored with the command's effects, so a
repeated key gets the same response from any instance, also after a crash.

If a joint commit fails, its commands are retried one by one, so that an error fails one command
only. The same goes for deadlocks between instances: a commit holds the locks of all its commands,
and those of two instances are taken in any order.

If the thread ends all the same, so does the process: its supervisor restarts it, whereas requests
to it would wait for ever.
"""

import json
import os
import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, TypeVar

import structlog

from counterfoil import faults
from counterfoil.errors import CounterfoilError
from counterfoil.events import outbox
from counterfoil.events.consistency import HEADER, token_of
from counterfoil.events.database import Cursor, Database
from counterfoil.events.errors import (
    Contended,
    EventsError,
    InvalidEvent,
    KeyReused,
    StoreUnavailable,
)
from counterfoil.events.identity import BEYOND
from counterfoil.events.messages import Message
from counterfoil.events.migrations import Applied, Migration, migrate
from counterfoil.events.sourcing import SCHEMA as AGGREGATE_SCHEMA
from counterfoil.events.topics import AnyTopic, Topic, check_sendable, no_topic

log = structlog.get_logger()
T = TypeVar("T")
BATCH: Final = 512
WAITING: Final = 4_096
"""Maximum waiting commands; beyond it, clients get a 503 at once."""
SABOTAGE_SECONDS: Final = 0.1
"""Delay of the commit after its responses when that fault is injected: long enough for them to
reach the clients, so that a crash in between always shows."""

CONTENDED_TRIES: Final = 3
"""Tries of a command that is alone in its commit and still deadlocks."""

EXIT_STATUS: Final = 70
"""Exit status of a process whose writer thread has ended: EX_SOFTWARE of sysexits."""

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS idempotency (
    key TEXT PRIMARY KEY, request_hash BLOB NOT NULL, status INTEGER NOT NULL, body BLOB NOT NULL,
    headers TEXT NOT NULL, created_us INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS idempotency_by_age ON idempotency (created_us);
"""


@dataclass(frozen=True, slots=True)
class Reply:
    """A response: HTTP status, body and headers."""

    status: int
    body: bytes
    headers: dict[str, str]


class Asked:
    """A request's headers, and who sent it."""

    def __init__(self, headers: dict[str, str]) -> None:
        self.headers = headers

    @property
    def tenant(self) -> str:
        """The caller's tenant, as verified by the gateway; empty on a route without identity."""
        return self.headers.get("tenant", "")

    @property
    def tier(self) -> str:
        """The caller's tier, such as gold; empty on a route without identity."""
        return self.headers.get("tier", "")


class Unit(Asked):
    """What a command may use: its database, and events that commit with its rows or not at all."""

    def __init__(
        self,
        database: Database,
        headers: dict[str, str],
        next_id: Callable[[], int],
        now_us: int,
        topics: frozenset[str] | None = None,
    ) -> None:
        super().__init__(headers)
        self.published: list[Message] = []
        self.has_created = False
        self._database = database
        self._next_id = next_id
        self._now_us = now_us
        self._topics = topics

    def new_id(self) -> int:
        """A Snowflake id: unique across instances, increasing with time."""
        return self._next_id()

    @property
    def now_us(self) -> int:
        """When the commit began, in microseconds; the same for all of its commands."""
        return self._now_us

    @property
    def day(self) -> str:
        """The day (UTC) on which this command runs, such as 2026-01-31."""
        return datetime.fromtimestamp(self._now_us // 1_000_000, UTC).date().isoformat()

    def execute(self, sql: str, parameters: Sequence[object] = ()) -> Cursor:
        """Run one SQL statement, with `?` for each parameter, in this command's transaction."""
        return self._database.execute(sql, parameters)

    def created(self) -> None:
        """Respond with 201 instead of 200: this command has created a resource.

        A PUT must tell its client so (RFC 9110, section 9.3.4); a POST does by default.
        """
        self.has_created = True

    def publish(self, topic: Topic[T], value: T, *, key: str, event_id: int | None = None) -> None:
        """Put an event into the outbox; events of one key stay in order.

        Raises:
            InvalidEvent: it does not fit its topic, is too large, or has an invalid key or an id
                beyond 63 bits.
            EventsError: the application declares no such topic.
            TypeError: the value is not of the topic's type, or the key is not a `str`.
        """
        if self._topics is not None and topic.name not in self._topics:
            raise no_topic(topic.name)
        if event_id is None:
            event_id = self._next_id()
        elif not 0 <= event_id < BEYOND:
            raise InvalidEvent(f"an event of {topic.name} has an id beyond 63 bits: {event_id}")
        content = topic.encode(value)
        check_sendable(topic, key, content)
        self.published.append(
            Message(event_id, topic.name, key, content, self.headers, self._now_us)
        )


@dataclass(frozen=True, slots=True)
class Command:
    """A write that is done once for its key.

    `handle` may be called again after a rollback, before the response is sent.
    """

    idempotency_key: str
    request_hash: bytes
    headers: dict[str, str]
    handle: Callable[[Unit], Reply]


def create_service(
    database: Database,
    schema: Sequence[str],
    migrations: Sequence[Migration],
    now_us: Callable[[], int],
) -> list[Applied]:
    """Create a service's tables: stored responses, outbox, and its own; returns what was migrated.

    Counterfoil's tables are not subject to the service's migrations, and are created if missing.

    Raises:
        MigrationRefused, StoreUnavailable: as `migrate` does.
    """
    ours = [each for each in schema if each == AGGREGATE_SCHEMA]
    database.create([SCHEMA, outbox.SCHEMA, *ours])
    own = [each for each in schema if each != AGGREGATE_SCHEMA]
    return migrate(database, own, migrations, now_us)


class ServiceStore:
    """A service's part of `database`; `schema` and `migrations` create the service's own tables.

    If `topics` are given, commands may publish to those only: an event of an undeclared topic would
    block the outbox.
    """

    def __init__(
        self,
        database: Database,
        schema: Sequence[str],
        *,
        migrations: Sequence[Migration] = (),
        next_id: Callable[[], int],
        clock_us: Callable[[], int],
        topics: Iterable[AnyTopic] | None = None,
    ) -> None:
        self._database = database
        self._topics = None if topics is None else frozenset(topic.name for topic in topics)
        create_service(database, schema, migrations, clock_us)
        self._next_id = next_id
        self._clock_us = clock_us
        self._waiting: queue.Queue[_Waiting | None] = queue.Queue(WAITING)
        self._thread = threading.Thread(target=self._run_writer, name="group-commit", daemon=True)
        self._thread.start()

    def submit(self, command: Command) -> "Future[Reply]":
        """Queue a command; the future is done once its effects are durable.

        The future raises `KeyReused`, `VersionConflict`, `InvalidEvent`, `StoreUnavailable`, or
        what the command raised. A command whose future is cancelled before its turn is not run.
        """
        future: Future[Reply] = Future()
        try:
            self._waiting.put_nowait((command, future))
        except queue.Full:
            future.set_exception(StoreUnavailable("too many requests wait for the disk"))
        return future

    def close(self) -> None:
        """Run the waiting commands, then close."""
        self._waiting.put(None)
        self._thread.join()
        self._database.close()

    def _run_writer(self) -> None:
        try:
            self._write()
        except BaseException:
            log.critical("the_writer_of_a_service_has_ended", exc_info=True)
            os._exit(EXIT_STATUS)

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
            self._commit([each for each in batch if each[1].set_running_or_notify_cancel()])

    def _commit(self, batch: "list[_Waiting]", tries: int = CONTENDED_TRIES) -> None:
        if not batch:
            return
        try:
            self._attempt(batch)
        except Contended as error:
            log.info("commands_waited_for_each_other", number=len(batch), why=str(error))
            if len(batch) > 1:
                for each in batch:
                    self._commit([each])
            elif tries > 1:
                self._commit(batch, tries - 1)
            else:
                _settle(batch, [error])
        except StoreUnavailable as error:
            unavailable = StoreUnavailable(f"it is not known to be stored: {error}")
            _settle(batch, [unavailable] * len(batch))
        except Exception as error:
            if len(batch) == 1:
                _settle(batch, [error])
                return
            log.info("commands_are_done_alone", number=len(batch), why=str(error))
            for each in batch:
                self._commit([each])

    def _attempt(self, batch: "list[_Waiting]") -> None:
        """Run the commands, commit, and respond."""
        early = faults.sabotaged("acknowledge-before-commit")
        with self._database.transaction():
            now_us = self._clock_us()
            published: list[Message] = []
            outcomes = [self._outcome(command, now_us, published) for command, _ in batch]
            if published:
                outbox.insert(self._database, published)
            if early:
                _settle(batch, outcomes)
                time.sleep(SABOTAGE_SECONDS)
            faults.point("service.before-commit")
        faults.point("service.after-commit")
        if not early:
            _settle(batch, outcomes)

    def _outcome(self, command: Command, now_us: int, published: list[Message]) -> "_Outcome":
        unit = Unit(self._database, command.headers, self._next_id, now_us, self._topics)
        try:
            with self._database.transaction():
                reply = self._run(command, unit, now_us)
        except StoreUnavailable:
            raise  # the disk or the server, not this command: roll back the whole batch
        except EventsError as error:
            return error  # this command's own: a retry wouldn't help
        except CounterfoilError as error:
            return StoreUnavailable(str(error))  # such as of coordination, which issues ids
        except Exception as error:
            return error
        except BaseException as error:
            # Such as SystemExit: it must fail this command, not end the writer.
            failed = RuntimeError(f"a command ended with {type(error).__name__}: {error}")
            failed.__cause__ = error
            return failed
        published += unit.published
        return reply

    def _run(self, command: Command, unit: Unit, now_us: int) -> Reply:
        """Run a command that is the first with its key, or return the first's response."""
        if faults.sabotaged("idempotency-off"):
            return command.handle(unit)
        database = self._database
        key = command.idempotency_key
        while not self._claim(command, now_us):
            answered = database.execute(
                "SELECT request_hash, status, body, headers FROM idempotency WHERE key = ?", (key,)
            ).fetchone()
            if answered is None:
                continue  # it has expired and was deleted in between
            request_hash, status, body, headers = answered
            if request_hash != command.request_hash:
                raise KeyReused("this key was used with another request")
            return Reply(status, body, json.loads(headers))
        reply = command.handle(unit)
        if token := token_of(unit.published):
            reply = Reply(reply.status, reply.body, {**reply.headers, HEADER: token})
        database.execute(
            "UPDATE idempotency SET status = ?, body = ?, headers = ? WHERE key = ?",
            (reply.status, reply.body, json.dumps(reply.headers), key),
        )
        return reply

    def _claim(self, command: Command, now_us: int) -> bool:
        """Whether this command is the first with its key; a duplicate waits here for the first."""
        claimed = self._database.execute(
            "INSERT INTO idempotency VALUES (?, ?, 0, ?, '{}', ?) ON CONFLICT (key) DO NOTHING",
            (command.idempotency_key, command.request_hash, b"", now_us),
        )
        return claimed.rowcount == 1


_Outcome = Reply | Exception
_Waiting = tuple[Command, "Future[Reply]"]


def _settle(batch: list[_Waiting], outcomes: Sequence[_Outcome]) -> None:
    for (_, future), outcome in zip(batch, outcomes, strict=True):
        if future.done():  # settled early by the injected fault
            continue
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
