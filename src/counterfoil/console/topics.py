"""Console API of topics: partitions, consumers with rates, hot keys, transactions."""

import asyncio
import threading
import time
from contextlib import closing
from typing import Final

import msgspec
from starlette.requests import Request

from counterfoil.application import Application, StateFolder
from counterfoil.events import (
    Events,
    EventsError,
    Lag,
    Progress,
    TopicView,
    Transaction,
    lag,
    progress,
    topics,
)
from counterfoil.supervisor import hot_keys
from counterfoil.supervisor.host import now_us

APART_SECONDS: Final = 1.0
"""The least time between the two samples of a rate; faster readers share samples."""


class Topics:
    """The endpoint for topics; rates are computed between requests."""

    def __init__(self, application: Application, events: Events, state: StateFolder) -> None:
        self._declared = application.all_topics()
        self._parallels = list(application.parallels)
        self._state = state
        self._events = events
        self._lock = threading.Lock()
        self._looks: list[tuple[float, list[Lag]]] = []

    async def show(self, _: Request) -> object:
        """All topics, each consumer's progress, hot keys, and the engine's transactions."""
        return await asyncio.to_thread(self._show)

    def _show(self) -> dict[str, object]:
        log = self._events.log()
        with closing(self._events.pipelines()) as store:
            found = lag(log, store)
        views: list[TopicView] = topics(log, self._declared)
        transactions: list[Transaction] | None = None
        trouble = ""
        try:
            transactions = self._events.transactions().newest(now_us())
        except EventsError as error:
            trouble = str(error)
        return {
            "topics": views,
            "consumers": self._progress(found),
            "hot_keys": hot_keys.read(self._state, self._parallels, found, now_us()),
            "transactions": None
            if transactions is None
            else [
                {
                    **msgspec.structs.asdict(each),
                    "producer_id": None if each.producer_id is None else str(each.producer_id),
                }
                for each in transactions
            ],
            "trouble": trouble,
        }

    def _progress(self, found: list[Lag]) -> list[Progress]:
        now = time.monotonic()
        with self._lock:
            old = [look for look in self._looks if now - look[0] >= APART_SECONDS]
            since, before = old[-1] if old else (now, found)
            if not self._looks or now - self._looks[-1][0] >= APART_SECONDS:
                self._looks = [*self._looks[-1:], (now, found)]
        return progress(before, found, max(now - since, 0.001))
