"""Queries of a service: committed data, read concurrently, never written.

A query runs in a thread with connections of its own, each in a transaction that only reads: it sees
one moment of its service's tables and one of what pipelines keep, waits for no writer, and no
writer waits for it. It needs no Idempotency-Key. Who hands in the token of a write's answer waits
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
"""Of an instance: as many reads at once, each with a connection or two of its own."""
CATCH_UP_SECONDS: Final = 1.5
"""How long a read waits for the write that it names: less than the gateway gives an attempt."""


class View(Asked):
    """What a query may use: tables of its service and of the pipelines, which it can only read."""

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
        """Run a SELECT on tables that handlers keep by `context.execute`."""
        return self._pipelines.execute(sql, parameters)

    def state(self, pipeline: str, key: str) -> bytes | None:
        """What a pipeline's handlers have put under a key (`context.state`), or None.

        A task queue's is kept for `tasks.NAME`, a saga's for `saga.NAME`.

        Raises:
            LookupError: nothing of that name is declared, of which nothing could ever be found.
        """
        if pipeline not in self._keepers:
            known = ", ".join(sorted(self._keepers)) or "nothing"
            raise LookupError(f"no {pipeline!r} keeps state here, but {known}")
        found = self._pipelines.execute(
            "SELECT value FROM state WHERE pipeline = ? AND key = ?", (pipeline, key)
        ).fetchone()
        return None if found is None else bytes(found[0])

    def balance(self, account: str, currency: str) -> int:
        """Credits less debits of an account in the ledger, in minor units; holds don't count."""
        found = balance(self._pipelines, account, currency)
        return found.credits - found.debits


@dataclass(slots=True)
class _Opened:
    """What one thread reads by."""

    own: Database
    pipelines: Database
    models: dict[str, ReadModel]


class Queries:
    """Runs the queries of the service `name`; close it after the last one.

    `keepers` keep state beside the pipelines: task queues and sagas, by the names they keep it for.
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
        """Run a query once the write of `token`, if there is one, can be seen.

        The future raises `NotCaughtUp`, `BadToken`, `StoreUnavailable`, or what the query raised.
        """
        return self._threads.submit(self._run, query, request, headers, token)

    def close(self) -> None:
        """Finish what was begun, then close."""
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
