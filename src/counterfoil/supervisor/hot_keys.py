"""Hot keys of a parallel pipeline: written by its process, read by console and CLI.

The counts live in the runner's memory. Its process leaves the largest in a file of the state folder
every few seconds, as the supervisor does with what it knows of processes: that costs no commit, and
the two engines need nothing for it. A file says when it was written, so what a process that has
ended or hangs has left is told from what is so now.
"""

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from counterfoil.application import StateFolder
from counterfoil.application.state import write_json
from counterfoil.events import KeyLoad, Lag

TOLD_SECONDS: Final = 5.0
"""Between two files: a hot key is hot for minutes."""
STALE_SECONDS: Final = 3 * TOLD_SECONDS
"""After this, what a file says is of the past: its process has ended, or hangs."""


class Told(msgspec.Struct, frozen=True):
    """What a process has left."""

    at_us: int
    held: int
    """Events in its memory."""
    hot_keys: list[KeyLoad]


class HotKeys(msgspec.Struct, frozen=True):
    """The hot keys of one parallel pipeline."""

    pipeline: str
    behind: int
    """Events between its positions and the ends of its topics."""
    at_us: int | None
    """When its process told the rest; None if it has not yet."""
    stale: bool
    held: int
    hot_keys: list[KeyLoad]
    """With their shares of the last 100,000 events or so, the largest first."""


def tell(state: StateFolder, pipeline: str, told: Told) -> None:
    """Leave what is known now, in the place of what was known before."""
    path = state.hot_keys(pipeline)
    path.parent.mkdir(exist_ok=True)
    write_json(path, msgspec.to_builtins(told))


def read(
    state: StateFolder, pipelines: Iterable[str], lags: Sequence[Lag], now_us: int
) -> list[HotKeys]:
    """What the processes of these pipelines have told last, with how far each is behind."""
    found: list[HotKeys] = []
    for pipeline in pipelines:
        behind = sum(each.lag for each in lags if each.group == pipeline)
        try:
            told = msgspec.json.decode(state.hot_keys(pipeline).read_bytes(), type=Told)
        except FileNotFoundError:
            found.append(HotKeys(pipeline, behind, None, True, 0, []))
            continue
        stale = now_us - told.at_us > STALE_SECONDS * 1_000_000
        found.append(HotKeys(pipeline, behind, told.at_us, stale, told.held, told.hot_keys))
    return found
