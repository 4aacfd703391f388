"""Stops each external engine for a while under load, and measures the recovery."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from counterfoil.application import Counterfoils
from counterfoil.proof.client import Client
from counterfoil.proof.stores import Stores
from counterfoil.supervisor import Child, Supervisor

BETWEEN_SECONDS: Final = 5.0
RECOVERY_SECONDS: Final = 60.0
"""How long to wait until everything is posted again; longer counts as no recovery."""
PART_SECONDS: Final = 15.0
"""The approximate overhead of an outage: the server's start, and the recovery."""


class Outage(msgspec.Struct, frozen=True):
    """An engine's outage."""

    engine: str
    seconds: float
    recovery_seconds: float | None
    """From the engine's first answer until all rows accepted by then were posted; None: never."""
    restarted: list[str]
    """Processes, other than the engine's own, that were restarted meanwhile."""


async def break_engines(
    supervisor: Supervisor,
    stores: Stores,
    counterfoils: Counterfoils,
    client: Client,
    *,
    requests: int,
    seconds: float,
    tell: Callable[[str, int, int], None],
) -> list[Outage]:
    """Kill the servers of each engine started here in turn, and bring them back after `seconds`.

    The client's rate is limited so that its `requests` last for all outages. With `seconds` 0
    nothing is killed.
    """
    engines = _engines_here(supervisor.children) if seconds else []
    if not engines:
        return []
    client.rate = requests / (len(engines) * (seconds + PART_SECONDS))
    found: list[Outage] = []
    for number, engine in enumerate(engines):
        tell("outages", number, len(engines))
        await asyncio.sleep(BETWEEN_SECONDS)
        before = _restarts(supervisor.children)
        await supervisor.take_down(engine)
        await asyncio.sleep(seconds)
        await supervisor.bring_back(engine)
        recovery = await _recovery(stores, counterfoils)
        after = _restarts(supervisor.children)
        restarted = [name for name, times in after.items() if times != before[name]]
        found.append(Outage(engine, seconds, recovery, restarted))
    tell("outages", len(engines), len(engines))
    client.rate = 0.0
    return found


def _engines_here(children: Sequence[Child]) -> list[str]:
    """The external engines whose servers run under the supervisor."""
    return list(dict.fromkeys(child.plan.engine for child in children if child.plan.engine))


def _restarts(children: Sequence[Child]) -> dict[str, int]:
    return {child.plan.name: child.restarts for child in children if not child.plan.engine}


async def _recovery(stores: Stores, counterfoils: Counterfoils) -> float | None:
    started = time.monotonic()
    accepted: int | None = None
    while (elapsed := time.monotonic() - started) < RECOVERY_SECONDS:
        accepted_now, posted = await asyncio.to_thread(_counts, stores, counterfoils)
        accepted = accepted_now if accepted is None else accepted
        if posted >= accepted:
            return round(elapsed, 2)
        await asyncio.sleep(0.1)
    return None


def _counts(stores: Stores, counterfoils: Counterfoils) -> tuple[int, int]:
    rows = f"SELECT count(*) FROM {counterfoils.rows}"  # noqa: S608
    transfers = "SELECT count(*) FROM ledger_transfers WHERE code = ?"
    accepted = stores.service(counterfoils.service, rows)
    posted = stores.pipelines(transfers, counterfoils.posted)
    return accepted[0][0] if accepted else 0, posted[0][0] if posted else 0
