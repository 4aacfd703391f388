"""Stops each real engine for a while under load, and times the recovery."""

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
"""How long is waited for everything to be posted again; what takes longer has not recovered."""
PART_SECONDS: Final = 15.0
"""What an outage takes beside its own length, by and large: the server's start, and the rest."""


class Outage(msgspec.Struct, frozen=True):
    """One engine that was gone and came back."""

    engine: str
    seconds: float
    recovery_seconds: float | None
    """From the engine's first answer until all that was accepted by then was posted; None: never.
    """
    restarted: list[str]
    """Processes, beside the engine's own, that ended meanwhile."""


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
    """Take each engine that runs here down in turn, at once and without a warning.

    The client is slowed down, so that its `requests` last for all outages of so many `seconds`; 0
    takes nothing down.
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
    """The real engines whose servers run under the supervisor."""
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
