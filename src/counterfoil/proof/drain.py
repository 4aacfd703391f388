"""Reconciles repeatedly until nothing is in flight, so that the result is final.

Where positions show whether work is under way (`rest`), a stable rest is enough. Otherwise time
decides: a stable match is final, and a difference once everything has had time to arrive. Time also
decides if positions never reach their ends, as with some bugs.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import Final

from counterfoil.application import Application, Counterfoils
from counterfoil.proof.client import ClientRecord
from counterfoil.proof.reconcile import Reconciliation, Sum, reconcile
from counterfoil.proof.rest import Standing, at_rest, positions_tell
from counterfoil.proof.stores import StoreAway, Stores
from counterfoil.supervisor import Child

DRAIN_SECONDS: Final = 90.0
LOOK_SECONDS: Final = 0.3
CALM_SECONDS: Final = 2.0
"""How long a match or a rest must last with every process running: a relay that has just resumed
may be about to send its batch again, as may the successor of one that has just died."""
SETTLED_SECONDS: Final = MappingProxyType({"embedded": 12.0, "spark": 120.0})
"""With every process running, by the engine of reports. Longer than a lease and a backoff together,
so that everything still under way has arrived. A Spark driver starts in 10 s, and its first job
takes as long again."""


class Drain:
    """The end of a run, after its last request: waits for everything under way."""

    def __init__(
        self,
        application: Application,
        counterfoils: Counterfoils,
        stores: Stores,
        processes: Sequence[Child],
    ) -> None:
        self._application = application
        self._counterfoils = counterfoils
        self._stores = stores
        self._processes = processes
        self._positions_tell = positions_tell(application, stores)

    async def at_rest(self) -> Standing | None:
        """The state if everything is at rest; None if something may be under way or start."""
        if not self._positions_tell or not self._all_run():
            return None
        try:
            return await asyncio.to_thread(
                at_rest, self._application, self._counterfoils, self._stores
            )
        except StoreAway:
            return None

    async def reconciled(
        self, client: ClientRecord, engine: str, on_look: Callable[[Reconciliation], None]
    ) -> Reconciliation:
        """The final result, with this engine of reports; `on_look` gets the intermediate ones.

        Raises:
            StoreAway: a store was unavailable until the deadline.
        """
        began = settled_since = calm_since = time.monotonic()
        deadline = began + DRAIN_SECONDS + 2 * SETTLED_SECONDS[engine]
        sums: dict[str, Sum] = {}
        before: object = None
        while True:
            try:
                found = await asyncio.to_thread(reconcile, self._counterfoils, self._stores, client)
            except StoreAway:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(LOOK_SECONDS)
                continue
            on_look(found)
            has_moved, sums = found.sums != sums, found.sums
            resting = None if has_moved else await self.at_rest()
            now = time.monotonic()
            if has_moved or not self._all_run():
                settled_since = now
            seen = (sums, found.difference_count, resting, self._lives())
            matches = found.difference_count == 0
            is_final = resting is not None if self._positions_tell else matches
            if seen != before or not is_final or not self._all_run():
                before, calm_since = seen, now
            elif now - calm_since > CALM_SECONDS:
                return found
            if now - settled_since > SETTLED_SECONDS[engine] or now > deadline:
                return found
            await asyncio.sleep(LOOK_SECONDS)

    def _all_run(self) -> bool:
        return all(child.ready.is_set() for child in self._processes)

    def _lives(self) -> list[int]:
        return [child.restarts for child in self._processes]
