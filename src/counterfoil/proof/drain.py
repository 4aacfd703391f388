"""Reconciles repeatedly until nothing is in flight, so that the result is final.

Where positions tell whether something is under way (`rest`), a rest that lasts is enough. Elsewhere
time has to tell: a match that lasts is one, and what differs has had time enough to arrive. Time is
the last word as well where positions don't come to their ends, as some bugs would leave them.
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
"""What is found must last, a match and a rest alike, with every process running: a relay that has
just woken up may be about to send its batch again, and one that has just died to do so anew."""
SETTLED_SECONDS: Final = MappingProxyType({"embedded": 12.0, "spark": 120.0})
"""With every process running. Longer than a lease and a backoff together, by the engine of reports:
whoever could still come, has. A Spark driver starts in 10 s and needs as long again for its first
job."""


class Drain:
    """The end of a run, after its last request: what is still on its way arrives, or doesn't."""

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
        """Where everything stands, or None if something may be under way or be about to begin."""
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
        """What is found in the end, with this engine of reports; `on_look` is told on the way.

        Raises:
            StoreAway: a store could not be read until the time was up.
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
