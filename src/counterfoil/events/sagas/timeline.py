"""Read-only view of sagas: status and timeline."""

from collections.abc import Iterable
from typing import Final

import msgspec

from counterfoil.events.errors import NoSuchSaga
from counterfoil.events.pipeline_store import PipelineStore
from counterfoil.events.sagas.instances import COLUMNS, Instance, Instances, Style, instance_of
from counterfoil.events.sagas.progress import Status

SHOWN: Final = 100
LINES_SHOWN: Final = 1_000
"""Limit on a timeline; the newest lines are shown. A saga of 20 steps with 5 tries in both
directions has 200; only a choreography with repeated events has more."""


class Happening(msgspec.Struct, frozen=True):
    """A line of a timeline."""

    step: str
    direction: str
    """`do`, or `undo` for a compensation."""
    outcome: str
    attempt: int
    error: str
    at_us: int


class SagaView(msgspec.Struct, frozen=True):
    """An instance; `step` is its current or last one."""

    saga: str
    id: int
    style: Style
    status: Status
    step: str
    key: str
    error: str
    """The last error, even if it was overcome since."""
    tries: int
    """Failed tries of the step so far."""
    waiting: bool
    """Whether it waits for an answer."""
    wake_us: int | None
    """When it goes on by itself: the time of the next try, or of the answer's timeout."""
    deadline_us: int | None
    """When it is compensated if it is still going forward then."""
    started_us: int
    ended_us: int | None
    timeline: list[Happening]
    """Empty in a list of sagas."""


class SagaPlace(msgspec.Struct, frozen=True):
    """The last row of a page of sagas, after which the next page begins."""

    started_us: int
    id: int
    saga: str


class Sagas:
    """The sagas of all names in a store, of both styles."""

    def __init__(self, store: PipelineStore) -> None:
        self._database = store.database
        Instances(store.database)

    def counts(self) -> dict[str, dict[Status, int]]:
        """How many instances of each saga have each status."""
        found: dict[str, dict[Status, int]] = {}
        for saga, status, number in self._database.execute(
            "SELECT saga, status, count(*) FROM saga_instances GROUP BY saga, status ORDER BY 1, 2"
        ):
            found.setdefault(saga, {})[status] = number
        return found

    def open(self, sagas: Iterable[str]) -> dict[str, dict[Status, int]]:
        """How many instances of these sagas have not ended, by status.

        Doesn't read those that have ended, which are many.
        """
        return {
            saga: dict(
                self._database.execute(
                    "SELECT status, count(*) FROM saga_instances "
                    "WHERE saga = ? AND ended_us IS NULL GROUP BY status",
                    (saga,),
                ).fetchall()
            )
            for saga in sagas
        }

    def newest(
        self,
        *,
        saga: str | None = None,
        status: str | None = None,
        before: SagaPlace | None = None,
        limit: int = SHOWN,
    ) -> list[SagaView]:
        """The newest instances, of one saga or of all, with one status or any.

        `before` is the place of the previous page's last one.
        """
        given = {"saga": saga, "status": status}
        wanted: dict[str, object] = {
            f"{name} = ?": value for name, value in given.items() if value is not None
        }
        place = () if before is None else msgspec.structs.astuple(before)
        behind = ["(started_us, id, saga) < (?, ?, ?)"] if place else []
        where = " AND ".join(["1 = 1", *wanted, *behind])
        return [
            _view(instance_of(row), [])
            for row in self._database.execute(
                f"SELECT {COLUMNS} FROM saga_instances WHERE {where} "  # noqa: S608
                "ORDER BY started_us DESC, id DESC, saga DESC LIMIT ?",
                (*wanted.values(), *place, limit),
            )
        ]

    def show(self, number: int) -> list[SagaView]:
        """The instances with this id, with their timelines: one event may start several sagas.

        Raises:
            NoSuchSaga: no event with this id has started one, or it was deleted by retention.
        """
        rows = self._database.execute(
            f"SELECT {COLUMNS} FROM saga_instances WHERE id = ? ORDER BY saga",  # noqa: S608
            (number,),
        ).fetchall()
        if not rows:
            raise NoSuchSaga(f"there is no saga {number}", hint="see `counterfoil events sagas`")
        return [_view(found, self._timeline(found)) for found in map(instance_of, rows)]

    def _timeline(self, instance: Instance) -> list[Happening]:
        newest = [
            Happening(*row)
            for row in self._database.execute(
                "SELECT step, direction, outcome, attempt, error, at_us FROM saga_lines "
                "WHERE saga = ? AND id = ? ORDER BY at_us DESC, number DESC LIMIT ?",
                (instance.saga, instance.id, LINES_SHOWN),
            )
        ]
        return newest[::-1]


def _view(instance: Instance, timeline: list[Happening]) -> SagaView:
    return SagaView(
        saga=instance.saga,
        id=instance.id,
        style=instance.style,
        status=instance.status,
        step=instance.step,
        key=instance.key,
        error=instance.error,
        tries=instance.tries,
        waiting=instance.waiting,
        wake_us=instance.wake_us,
        deadline_us=instance.deadline_us,
        started_us=instance.started_us,
        ended_us=instance.ended_us,
        timeline=timeline,
    )
