"""Decides whether anything is still in flight: a difference at rest is final.

The way is at rest when every step of it stands at the end of the one before: each event that was
left in an outbox is in the log, each pipeline and the lake have taken what is in their topics, and
the report is that of the lake's newest version. All of these only grow. Of two looks that found the
same, each at its end, there was a moment between them at which nothing was under way; so what is
reconciled between them is all that will ever come.

Where work waits for a clock, or is out of its topic before it is done, positions don't tell: that
is so with timers, sagas, tasks and parallel work, and with stateless pipelines that keep their
positions in Kafka.
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
    """Where the steps of the way stood in a look that found each at its end."""

    published: int
    """Events that were left in outboxes."""
    positions: Positions
    version: int
    """Of the lake's table; -1 before its first."""


def at_rest(
    application: Application, counterfoils: Counterfoils, stores: Stores
) -> Standing | None:
    """Where everything stands, or None if something is under way; only where positions tell."""
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
    """Whether all that an application does shows in positions."""
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
    """Of pipelines beside what they have done, of the lake in its table and as it is noted."""
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
