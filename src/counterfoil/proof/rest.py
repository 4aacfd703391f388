"""Decides whether anything is still in flight: differences at rest are final.

The system is at rest when each stage has reached the end of the previous one: each event of an
outbox is in the log, each pipeline and the lake have read their topics to the end, and the report
was computed from the lake's newest version. All of these only grow. If two checks in a row find the
same state at rest, there was a moment between them at which nothing was under way, so a
reconciliation between them is final.

Positions don't show work that waits for a clock or has left its topic before it is done: timers,
sagas, tasks, parallel pipelines, and stateless pipelines that keep their positions in Kafka.
"""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from counterfoil.application import Application, Counterfoils
from counterfoil.proof.stores import Stores
from counterfoil.reports.delta import open_table

if TYPE_CHECKING:
    import deltalake

_POSITIONS: Final = "SELECT partition, next FROM offsets WHERE consumer = ? AND topic = ?"
_LAKE: Final = "lake"
_TABLE: Final = "the lake's table"
Positions = dict[tuple[str, str], dict[int, int]]
"""The next offset of each partition, by consumer and topic."""


class Standing(msgspec.Struct, frozen=True):
    """The state of all stages at a check that found each at its end."""

    published: int
    """The number of events in outboxes."""
    positions: Positions
    version: int
    """The version of the lake's table; -1 before its first."""


def at_rest(
    application: Application, counterfoils: Counterfoils, stores: Stores
) -> Standing | None:
    """The state if everything is at rest, else None; only if `positions_tell`."""
    left = stores.published(application.services)
    waiting = Counter((topic, int(identity)) for topic, identity in left)
    for topic in {topic for topic, _ in waiting}:
        waiting -= Counter((topic, identity) for identity, _ in stores.events(topic))
    if waiting:
        return None
    table = _table(stores.state.lake / counterfoils.stored.name)
    positions = _positions(application, counterfoils, stores, table)
    if any(stores.beyond(topic, found) for (_, topic), found in positions.items()):
        return None
    version = -1 if table is None else table.version()
    if _reported(stores.state.reports / counterfoils.report.name) != version:
        return None
    return Standing(len(left), positions, version)


def positions_tell(application: Application, stores: Stores) -> bool:
    """Whether positions show all of an application's work."""
    return not (
        application.queues
        or application.sagas
        or application.parallels
        or any(
            each.timer or each.event_time or (each.stateless and not stores.holds_log)
            for each in application.pipelines.values()
        )
    )


def _positions(
    application: Application,
    counterfoils: Counterfoils,
    stores: Stores,
    table: "deltalake.DeltaTable | None",
) -> Positions:
    """The positions of pipelines and of the lake, the latter in the store and in its table."""
    taken = [
        (name, topic)
        for name, pipeline in application.pipelines.items()
        for topic in (*pipeline.sources, pipeline.topics()[1], *pipeline.tables)
    ]
    topic, _ = application.stores[counterfoils.stored.name]
    retries, _ = application.lake_topics(counterfoils.stored.name)
    taken += [(_LAKE, topic), (_LAKE, retries)]
    positions = {
        (name, topic.name): dict(stores.pipelines(_POSITIONS, name, topic.name))
        for name, topic in taken
    }
    for source in (topic, retries):
        found = {
            number: None if table is None else table.transaction_version(f"{source.name}/{number}")
            for number in range(source.partitions)
        }
        positions[_TABLE, source.name] = {
            number: offset for number, offset in found.items() if offset is not None
        }
    return positions


def _table(path: Path) -> "deltalake.DeltaTable | None":
    return open_table(path) if (path / "_delta_log").exists() else None


def _reported(folder: Path) -> int:
    """The version of the lake's table that the published report was computed from."""
    try:
        return int(msgspec.json.decode((folder / "report.json").read_bytes())["version"])
    except FileNotFoundError:
        return -1
