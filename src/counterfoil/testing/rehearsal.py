"""Runs an application in one process, with a clock that the test controls.

It runs the production code: web application, group commit, outbox, relay, pipelines, sagas and
ledger, on the embedded engine in a temporary folder. There are no processes, and so no waiting:
`run` steps everything until nothing is left to do, and a test takes milliseconds. `prove` tests the
rest.

Crashes can be rehearsed, too: execution stops at a fault point, as in a killed process, and the
next run starts from what is stored.
"""

import asyncio
import contextlib
import itertools
import sys
import tempfile
from collections.abc import Generator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol, TypeVar

import httpx2
import msgspec

from counterfoil import faults
from counterfoil.application import Application
from counterfoil.application.queries import Queries
from counterfoil.application.service import Method
from counterfoil.application.web import web_application
from counterfoil.errors import CounterfoilError
from counterfoil.events import (
    ChoreographyTracer,
    DeadLetter,
    DeadLetters,
    EmbeddedEvents,
    Message,
    PipelineRunner,
    Relay,
    SagaCoordinator,
    ServiceStore,
    TaskWorker,
    Topic,
    late_events,
    rebuilt_balances,
)
from counterfoil.events.consistency import HEADER
from counterfoil.testing.queue import RehearsedQueue

Event = TypeVar("Event", bound=msgspec.Struct)
START: Final = datetime(2026, 1, 1, tzinfo=UTC)
STEPS: Final = 10_000
"""Steps that `run` allows; an application that needs more feeds itself events forever."""
TERM: Final = 1
"""The fencing token of all writers here: none is ever fenced."""


class RehearsalError(CounterfoilError):
    """The rehearsal can't continue."""


class Crash(BaseException):
    """A rehearsed crash; only the rehearsal catches it."""


class _Worker(Protocol):
    def step(self) -> int: ...


class Rehearsal:
    """Runs an application's services, pipelines, sagas and task queues; close it, or use `with`.

    A failed task is retried once `advance` has moved the clock far enough, and a task that a crash
    interrupted once its lease has expired. Parallel pipelines, hooks, the lake and reports are not
    included: `prove` tests them.
    """

    def __init__(
        self, application: Application, *, now: datetime = START, steps: int = STEPS
    ) -> None:
        self._application = application
        self._steps = steps
        self._folder = tempfile.TemporaryDirectory(prefix="counterfoil-")
        self._events = EmbeddedEvents(Path(self._folder.name))
        self._log = self._events.log()
        self._log.declare(application.all_topics())
        self._now = now
        self._ids = itertools.count(1)
        self._crash_at: str | None = None
        self._workers: list[_Worker] = []
        self._services = {
            name: ServiceStore(
                self._events.service(name),
                service.schema,
                migrations=service.migrations,
                next_id=lambda: next(self._ids),
                clock_us=self._now_us,
                topics=application.all_topics(),
            )
            for name, service in application.services.items()
        }

    def __enter__(self) -> "Rehearsal":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all stores, and delete the folder."""
        for worker in self._workers:
            if isinstance(worker, RehearsedQueue):
                worker.close()
        for store in self._services.values():
            store.close()
        self._folder.cleanup()

    def advance(self, by: timedelta) -> None:
        """Move the clock, which otherwise stands still."""
        self._now += by

    def post(
        self,
        path: str,
        body: msgspec.Struct | bytes,
        *,
        idempotency_key: str,
        tenant: str = "tenant",
        tier: str = "gold",
    ) -> httpx2.Response:
        """Send a POST to the service that offers `path`, as the gateway does after authentication.

        Raises:
            RehearsalError: no service offers the path.
        """
        return self._command("POST", path, body, _asking(tenant, tier, idempotency_key))

    def put(
        self,
        path: str,
        body: msgspec.Struct | bytes,
        *,
        idempotency_key: str,
        tenant: str = "tenant",
        tier: str = "gold",
    ) -> httpx2.Response:
        """Send a PUT, as `post` does."""
        return self._command("PUT", path, body, _asking(tenant, tier, idempotency_key))

    def patch(
        self,
        path: str,
        body: msgspec.Struct | bytes,
        *,
        idempotency_key: str,
        tenant: str = "tenant",
        tier: str = "gold",
    ) -> httpx2.Response:
        """Send a PATCH, as `post` does."""
        return self._command("PATCH", path, body, _asking(tenant, tier, idempotency_key))

    def delete(
        self, path: str, *, idempotency_key: str, tenant: str = "tenant", tier: str = "gold"
    ) -> httpx2.Response:
        """Send a DELETE, as `post` does; it has no body, so its fields are in the query string."""
        return self._command("DELETE", path, b"", _asking(tenant, tier, idempotency_key))

    def get(
        self, path: str, *, tenant: str = "tenant", tier: str = "gold", token: str = ""
    ) -> httpx2.Response:
        """Send a GET to the service that offers `path`, as the gateway does after authentication.

        `token` is the `counterfoil-consistency-token` of a write whose effects must be visible.

        Raises:
            RehearsalError: no service offers the path.
        """
        headers = _asking(tenant, tier)
        if token:
            headers[HEADER] = token
        for name, service in self._application.services.items():
            if any(query.fits(path.partition("?")[0]) for query in service.queries):
                return self._ask(name, "GET", path, headers)
        raise RehearsalError(f"no service offers GET {path}")

    def _command(
        self, method: Method, path: str, body: msgspec.Struct | bytes, headers: dict[str, str]
    ) -> httpx2.Response:
        content = body if isinstance(body, bytes) else msgspec.json.encode(body)
        asked = path.partition("?")[0]
        for name, service in self._application.services.items():
            if any(each.method == method and each.fits(asked) for each in service.commands):
                return self._ask(name, method, path, headers, content)
        raise RehearsalError(f"no service offers {method} {path}")

    def _ask(
        self, service: str, method: str, path: str, headers: dict[str, str], content: bytes = b""
    ) -> httpx2.Response:
        declared = self._application
        queries = Queries(self._events, service, declared.pipelines, declared.state_keepers())
        asgi = web_application(declared.services[service], self._services[service], queries)

        async def ask() -> httpx2.Response:
            transport = httpx2.ASGITransport(asgi)  # pyright: ignore[reportArgumentType]
            async with httpx2.AsyncClient(transport=transport, base_url="http://service") as client:
                return await client.request(method, path, content=content, headers=headers)

        with contextlib.closing(queries):
            return asyncio.run(ask())

    def send(
        self, topic: Topic[Event], event: Event, *, key: str, headers: Mapping[str, str] = {}
    ) -> int:
        """Append an event to a topic, bypassing services; returns its id."""
        return self.send_bytes(topic, topic.encode(event), key=key, headers=headers)

    def send_bytes(
        self, topic: Topic[Any], content: bytes, *, key: str, headers: Mapping[str, str] = {}
    ) -> int:
        """Append bytes to a topic, which need not be a valid event; returns the id."""
        number = next(self._ids)
        message = Message(number, topic.name, key, content, dict(headers), self._now_us())
        appender = self._log.appender("rehearsal", TERM)
        with contextlib.closing(appender):
            appender.append([message], appender.position + 1)
        return number

    def run(self) -> int:
        """Run relays, pipelines, sagas and queues until nothing is left to do.

        Returns the number of items processed.

        Raises:
            RehearsalError: it never comes to rest, or a requested crash did not happen.
        """
        moved = self._until_rest()
        if self._crash_at is not None:
            point, self._crash_at = self._crash_at, None
            raise RehearsalError(f"nothing has reached the fault point {point!r}")
        return moved

    def crash(self, point: str) -> None:
        """Run until a fault point is reached, and crash there; `run` continues from what is stored.

        The points are those of `counterfoil.faults`: `pipeline.before-commit`,
        `pipeline.after-commit`, `relay.before-append` and so on.

        Raises:
            RehearsalError: nothing reached it.
        """
        self._crash_at = point
        try:
            self.run()
        except Crash:
            # Recreated from what is stored, as in a new process.
            self._workers.clear()

    def events(self, topic: Topic[Event]) -> list[Event]:
        """All events of a topic, in order for each key.

        Raises:
            RehearsalError: `topic` is not a `Topic`.
            EventsError: the topic isn't declared.
        """
        if not isinstance(topic, Topic):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise RehearsalError(
                f"events are asked for by their topic, not by {topic!r}",
                hint="hand in what app.topic(...) has returned",
            )
        partitions = range(self._log.partitions(topic.name))
        found = (self._log.read(topic.name, number, 0, sys.maxsize) for number in partitions)
        return [topic.decode(record.value) for records in found for record in records]

    def balance(self, account: str, currency: str) -> int:
        """An account's credits minus debits, in minor units, computed from its transfers."""
        balances = rebuilt_balances(self._events.pipelines().database)
        debits, credits = balances.get((account, currency), (0, 0))
        return credits - debits

    def dead_letters(self) -> list[DeadLetter]:
        """The dead letters, newest first."""
        return DeadLetters(self._events.pipelines()).list()

    def late_events(self, name: str) -> int:
        """The number of events that came too late for the window or join `name`."""
        return late_events(self._events.pipelines(), name)

    def query(self, service: str, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Rows of a service's own tables.

        Raises:
            RehearsalError: there is no such service.
        """
        if service not in self._services:
            known = ", ".join(sorted(self._services)) or "none"
            raise RehearsalError(f"there is no service {service!r}", hint=f"declared: {known}")
        with contextlib.closing(self._events.service(service)) as database:
            return database.execute(sql, parameters).fetchall()

    def _until_rest(self) -> int:
        moved = 0
        with self._dying():
            workers = self._workers or self._open()
            for _ in range(self._steps):
                now = sum(worker.step() for worker in workers)
                if now == 0:
                    return moved
                moved += now
        raise RehearsalError(
            f"it does not come to rest in {self._steps} steps", hint="does a pipeline feed itself?"
        )

    def _open(self) -> list[_Worker]:
        events, log, now_us = self._events, self._log, self._now_us
        declared = self._application
        self._workers += [
            Relay(events.outbox(name), log.appender(name, TERM)) for name in declared.services
        ]
        self._workers += [
            PipelineRunner(log, events.pipelines(), pipeline, now_us)
            for pipeline in declared.pipelines.values()
        ]
        self._workers += [
            SagaCoordinator(log, events.pipelines(), saga, fencing_token=TERM, now_us=now_us)
            for saga in declared.sagas.values()
        ]
        self._workers += [
            ChoreographyTracer(log, events.pipelines(), choreography, now_us)
            for choreography in declared.choreographies.values()
        ]
        for queue in declared.queues.values():
            taking_over = PipelineRunner(log, events.pipelines(), queue.pipeline(), now_us)
            worker = TaskWorker(events.pipelines(), queue, now_us)
            self._workers.append(RehearsedQueue(queue, taking_over, worker))
        return self._workers

    @contextlib.contextmanager
    def _dying(self) -> Generator[None, None, None]:
        def reached(point: str) -> None:
            if point == self._crash_at:
                self._crash_at = None
                raise Crash(point)

        with faults.observed(reached):
            yield

    def _now_us(self) -> int:
        return int(self._now.timestamp()) * 1_000_000 + self._now.microsecond


def _asking(tenant: str, tier: str, idempotency_key: str = "") -> dict[str, str]:
    """The headers that the gateway adds, and a command's Idempotency-Key."""
    headers = {"x-counterfoil-tenant": tenant, "x-counterfoil-tier": tier}
    return {**headers, "idempotency-key": idempotency_key} if idempotency_key else headers
