"""Console API of sagas with their timelines, and of task queues.

It is read-only: stuck sagas and failed tasks are dead letters, and are handled there. Sagas come in
pages, newest first; each page names the position of the next, so that new sagas don't shift pages.
"""

import asyncio
import re
from collections.abc import Callable
from contextlib import closing
from typing import Final, TypeVar

import msgspec
from starlette.requests import Request

from counterfoil.application import Application
from counterfoil.console.requests import LARGEST, Answer
from counterfoil.events import (
    Events,
    NoSuchSaga,
    PipelineStore,
    SagaPlace,
    Sagas,
    SagaStatus,
    SagaView,
    task_counts,
)
from counterfoil.supervisor.host import now_us

SAGAS_SHOWN: Final = 500
"""Per page, at most."""
PLACE: Final = re.compile(r"(\d{1,18})-(\d{1,19})-(.+)")
T = TypeVar("T")


class Work:
    """The endpoints for sagas and task queues."""

    def __init__(self, application: Application, events: Events) -> None:
        self._sagas = [*application.sagas, *application.choreographies]
        self._queues = list(application.queues)
        self._events = events

    def readers(self) -> dict[str, Answer]:
        """The GET endpoints."""
        return {
            "/api/sagas": self.sagas,
            "/api/sagas/{number:int}": self.saga,
            "/api/tasks": self.tasks,
        }

    async def sagas(self, request: Request) -> object:
        """A page of sagas; the first one has the number of open instances of each declared saga."""
        asked = request.query_params
        wanted = msgspec.convert(asked.get("limit") or "100", int, strict=False)
        limit = min(max(wanted, 1), SAGAS_SHOWN)
        status = msgspec.convert(asked.get("status") or None, SagaStatus | None)
        before = _place(asked["before"]) if asked.get("before") else None

        def ask(store: PipelineStore) -> dict[str, object]:
            sagas = Sagas(store)
            found = sagas.newest(
                saga=asked.get("saga") or None, status=status, before=before, limit=limit
            )
            return {
                "sagas": [_document(each) for each in found],
                "next": _text(found[-1]) if len(found) == limit else None,
                "open": sagas.open(self._sagas) if before is None else None,
            }

        return await self._do(ask)

    async def saga(self, request: Request) -> object:
        """The sagas that one event has started, with their timelines."""
        number = request.path_params["number"]
        if number > LARGEST:
            raise NoSuchSaga(f"there is no saga {number}")
        found = await self._do(lambda store: Sagas(store).show(number))
        return [_document(each) for each in found]

    async def tasks(self, _: Request) -> object:
        """The tasks in each queue, and the age of its oldest waiting task."""
        now = now_us()
        found = await self._do(lambda store: task_counts(store, now, self._queues))
        return [
            {
                **msgspec.structs.asdict(each),
                "oldest_seconds": None
                if each.oldest_us is None
                else max(now - each.oldest_us, 0) / 1e6,
            }
            for each in found
        ]

    async def _do(self, ask: Callable[[PipelineStore], T]) -> T:
        def asked() -> T:
            with closing(self._events.pipelines()) as store:
                return ask(store)

        return await asyncio.to_thread(asked)


def _document(saga: SagaView) -> dict[str, object]:
    return {**msgspec.structs.asdict(saga), "id": str(saga.id)}


def _text(saga: SagaView) -> str:
    return f"{saga.started_us}-{saga.id}-{saga.saga}"


def _place(text: str) -> SagaPlace:
    """The position written by `_text`.

    Raises:
        msgspec.DecodeError: it is invalid.
    """
    found = PLACE.fullmatch(text)
    if found is None or int(found[2]) > LARGEST:
        raise msgspec.DecodeError(f"{text!r} is not where a page of sagas ended")
    started_us, number, saga = found.groups()
    return SagaPlace(int(started_us), int(number), saga)
