"""Runs the queries of a service: concurrent, read-only, on committed data.

Each query runs in a thread with its own connections, in read-only transactions: it sees one
snapshot of its service's tables and one of the pipelines' tables, and neither blocks writers nor is
blocked by them. It needs no Idempotency-Key. A request with the consistency token of a write waits
until the pipelines that the query reads have handled that write (`consistency`).
"""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final

from counterfoil.application.service import Query, answered
from counterfoil.events import Asked, Database, Events, Pipeline, ReadModel, balance
from counterfoil.events.database import Cursor

THREADS: Final = 8
"""Queries that an instance runs at once; each thread has its own connections."""
CATCH_UP_SECONDS: Final = 1.5
"""How long a query waits for the write of its token: less than the gateway's attempt timeout."""


class View(Asked):
    """Read-only access to the tables of the service and of the pipelines."""

    def __init__(
        self,
        headers: dict[str, str],
        own: Database,
        pipelines: Database,
        keepers: frozenset[str],
    ) -> None:
        super().__init__(headers)
        self._own = own
        self._pipelines = pipelines
        self._keepers = keepers

    def execute(self, sql: str, parameters: Sequence[object] = ()) -> Cursor:
        """Run a SELECT on the service's tables, with `?` for each parameter."""
        return self._own.execute(sql, parameters)

    def execute_on_pipelines(self, sql: str, parameters: Sequence[object] = ()) -> Cursor:
        """Run a SELECT on tables that handlers write with `context.execute`."""
        return self._pipelines.execute(sql, parameters)

    def state(self, pipeline: str, key: str) -> bytes | None:
        """The value that a pipeline's handlers stored under a key (`context.state`), or None.

        The state of a task queue is under `tasks.NAME`, that of a saga under `saga.NAME`.

        Raises:
            LookupError: nothing of that name is declared to keep state.
        """
        if pipeline not in self._keepers:
            known = ", ".join(sorted(self._keepers)) or "nothing"
            raise LookupError(f"no {pipeline!r} keeps state here, but {known}")
        found = self._pipelines.execute(
            "SELECT value FROM state WHERE pipeline = ? AND key = ?", (pipeline, key)
        ).fetchone()
        return None if found is None else bytes(found[0])

    def balance(self, account: str, currency: str) -> int:
        """An account's credits minus debits in the ledger, in minor units, without holds."""
        found = balance(self._pipelines, account, currency)
        return found.credits - found.debits


@dataclass(slots=True)
class _Opened:
    """The connections of one thread."""

    own: Database
    pipelines: Database
    models: dict[str, ReadModel]


class Queries:
    """Runs the queries of the service `name`; close it after the last one.

    `keepers` are the names under which task queues and sagas keep state.
    """

    def __init__(
        self,
        events: Events,
        name: str,
        pipelines: Mapping[str, Pipeline[Any]],
        keepers: Iterable[str] = (),
    ) -> None:
        self._events = events
        self._keepers = frozenset((*pipelines, *keepers))
        self._name = name
        self._declared = pipelines
        self._here = threading.local()
        self._open: list[Callable[[], None]] = []
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="query")

    def submit(
        self, query: Query, request: Any, headers: dict[str, str], token: str
    ) -> "Future[Any]":
        """Run a query once the write of `token`, if given, is visible.

        The future raises `NotCaughtUp`, `BadToken`, `StoreUnavailable`, or what the query raises.
        """
        return self._threads.submit(self._run, query, request, headers, token)

    def close(self) -> None:
        """Finish the queries under way, then close."""
        self._threads.shutdown()
        for close in self._open:
            close()

    def _run(self, query: Query, request: Any, headers: dict[str, str], token: str) -> Any:
        opened: _Opened | None = getattr(self._here, "opened", None)
        if opened is None:
            opened = self._here.opened = self._opened()
        if token:
            for pipeline in query.reads:
                model = opened.models.get(pipeline) or self._model(pipeline)
                opened.models[pipeline] = model
                model.await_caught_up(token, timeout_seconds=CATCH_UP_SECONDS)
        with ExitStack() as reading:
            for database in (opened.own, opened.pipelines):
                reading.enter_context(database.reading())
            return answered(
                query.handle, request, View(headers, opened.own, opened.pipelines, self._keepers)
            )

    def _opened(self) -> _Opened:
        own, store = self._events.service(self._name), self._events.pipelines()
        self._open += [own.close, store.close]
        return _Opened(own, store.database, {})

    def _model(self, pipeline: str) -> ReadModel:
        log, store = self._events.log(), self._events.pipelines()
        self._open += [log.close, store.close]
        return ReadModel(log, store, self._declared[pipeline])
