"""Counts late events of windows and joins, in their pipeline's state."""

from typing import Final

from counterfoil.events.effects import Context
from counterfoil.events.pipeline_store import PipelineStore
from counterfoil.events.state import OWN

_LATE: Final = f"{OWN}late events"


def count_late(context: Context) -> None:
    """Count the current event, with its commit."""
    late = int(context.state.get(_LATE) or b"0") + 1
    context.state.put(_LATE, str(late).encode())


def late_events(store: PipelineStore, name: str) -> int:
    """How many events were too late for all of their windows, or for their join, as committed.

    Raises:
        StoreUnavailable: the database can't be read.
    """
    row = store.database.execute(
        "SELECT value FROM state WHERE pipeline = ? AND key = ?", (name, _LATE)
    ).fetchone()
    return 0 if row is None else int(row[0])
