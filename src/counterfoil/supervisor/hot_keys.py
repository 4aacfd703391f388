"""Hot keys of a parallel pipeline: written by its process, read by console and CLI.

The counts are in the runner's memory. Every few seconds its process writes the largest to a file in
the state folder: that needs no commit, and is the same on both engines. The file contains its time,
so that counts of a process that has ended or hangs are recognized as stale.
"""

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from counterfoil.application import StateFolder
from counterfoil.application.state import write_json
from counterfoil.events import KeyLoad, Lag

TOLD_SECONDS: Final = 5.0
"""Between two writes: a key is hot for minutes."""
STALE_SECONDS: Final = 3 * TOLD_SECONDS
"""Older counts are stale: the process has ended, or hangs."""


class Told(msgspec.Struct, frozen=True):
    """What a process has written."""

    at_us: int
    held: int
    """Events in the process's memory."""
    hot_keys: list[KeyLoad]


class HotKeys(msgspec.Struct, frozen=True):
    """The hot keys of one parallel pipeline."""

    pipeline: str
    behind: int
    """Events not yet handled, in all of its topics."""
    at_us: int | None
    """When its process wrote the rest; None if it has not yet."""
    stale: bool
    held: int
    hot_keys: list[KeyLoad]
    """With their shares of about the last 100,000 events, the largest first."""


def tell(state: StateFolder, pipeline: str, told: Told) -> None:
    """Replace the pipeline's file."""
    path = state.hot_keys(pipeline)
    path.parent.mkdir(exist_ok=True)
    write_json(path, msgspec.to_builtins(told))


def read(
    state: StateFolder, pipelines: Iterable[str], lags: Sequence[Lag], now_us: int
) -> list[HotKeys]:
    """What the processes of these pipelines wrote last, and each pipeline's lag."""
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
