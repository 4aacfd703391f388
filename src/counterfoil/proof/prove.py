"""`counterfoil prove`: runs the application, injects faults, and reconciles the results."""

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Literal

import aiohttp
import msgspec

from counterfoil.application import (
    Application,
    Configuration,
    Counterfoils,
    Request,
    StateFolder,
    Workload,
    load,
    load_application,
)
from counterfoil.application.state import write_json
from counterfoil.errors import CounterfoilError
from counterfoil.faults import SABOTAGES
from counterfoil.proof.client import Client
from counterfoil.proof.drain import Drain
from counterfoil.proof.faults import FaultInjector, schedule
from counterfoil.proof.outages import Outage, break_engines
from counterfoil.proof.reconcile import Difference, Reconciliation, Sum, service_rows
from counterfoil.proof.stores import Stores, open_stores
from counterfoil.supervisor import Supervisor

FAULT_NUMBER: Final = 24
OUTAGE_SECONDS: Final = 30.0
DRAWN: Final = 50
"""Requests per progress report: drawing each one costs more than sending some."""


class ProofError(CounterfoilError):
    """The proof could not be run; unlike a verdict that fails."""


class Verdict(msgspec.Struct, frozen=True):
    """The result of a proof; `holds` only if nothing was lost, doubled or changed."""

    verdict: Literal["holds", "fails"]
    seed: int
    engines: dict[str, str]
    """The engine of each part."""
    sabotage: str | None
    sent: int
    attempts: int
    acknowledged: int
    refused: int
    ledger: int
    lake: int
    report: int
    revenue: int
    """Minor units, from the report."""
    sums: dict[str, Sum]
    faults: dict[str, int]
    faulted: dict[str, int]
    """Faults by kind of process."""
    outages: list[Outage]
    refusals: dict[str, float]
    """Answers with status 503: their number, those without Retry-After, the slowest (ms)."""
    difference_count: int
    differences: list[Difference]
    seconds: dict[str, float]
    latency_ms: dict[str, float]


Progress = Callable[[str, int, int], None]
"""Called with the name of the step, the amount done, and the total."""


async def prove(
    folder: Path,
    state: Path,
    *,
    purchases: int,
    seed: int,
    actions: Sequence[str],
    engines: str = "",
    sabotage: str | None = None,
    fault_number: int = FAULT_NUMBER,
    outage_seconds: float = OUTAGE_SECONDS,
    addresses: bool = False,
    on_progress: Progress | None = None,
    on_up: Callable[[str], None] | None = None,
) -> Verdict:
    """Run the application's own workload against it under faults, and reconcile.

    A proof writes real data, counts all that it finds, and may enable a bug. So it uses its own
    servers, in its state folder; with `addresses` it uses those of the configuration, where the
    application must have no data.

    `on_up` gets the console's URL, with its key, which is valid while the proof runs.

    Raises:
        ProofError: the application declares nothing to match, a sabotage is unknown, or the
            servers at `addresses` already hold rows.
        CounterfoilError: it did not start.
    """
    tell = on_progress or _untold
    configuration = load(folder, engines=engines, own_servers=not addresses)
    application = load_application(folder, configuration.application.module)
    counterfoils, make_workload = _provable(application, configuration)
    if sabotage is not None and sabotage not in SABOTAGES:
        raise ProofError(f"no sabotage {sabotage!r}", hint="see --list-sabotage")
    if (state / "access.jsonl").exists():
        raise ProofError(
            f"{state} holds an earlier run", hint="name a new folder with --state, or none"
        )
    requests = list(make_workload(purchases, seed))
    files = StateFolder(state)
    environment = {"COUNTERFOIL_FAULTS": str(files.faults.resolve())}
    if sabotage is not None:
        environment["COUNTERFOIL_SABOTAGE"] = sabotage
    supervisor = Supervisor(
        folder,
        state,
        free_ports=True,
        engines=engines,
        own_servers=not addresses,
        environment=environment,
    )
    started = time.monotonic()
    async with supervisor.running():
        if on_up is not None:
            on_up(supervisor.console_address())
        up = time.monotonic()
        assert supervisor.addresses is not None
        stores = open_stores(application.name, configuration, files)
        await refuse_purchases(counterfoils, stores)
        tokens = await _tokens(supervisor.addresses.issuer, requests)
        client = Client(
            supervisor.addresses.gateway,
            None if configuration.gateway.tls == "off" else files.tls / "ca.pem",
            tokens,
            seed=seed,
        )
        drain = Drain(application, counterfoils, stores, supervisor.children)
        sending = _Load(len(requests), tell)

        async def is_over() -> bool:
            return sending.is_over and await drain.at_rest() is not None

        injector = FaultInjector(supervisor, files.faults, seed, is_over)
        kinds = sorted({child.plan.kind for child in supervisor.children})
        faults = schedule(seed, kinds, actions, number=fault_number, sabotage=sabotage)

        def look(found: Reconciliation) -> None:
            accepted = found.sums["accepted"].count
            tell("reported", min(found.sums["report"].count, accepted), accepted)

        injecting = asyncio.create_task(injector.run(faults, sending.progress))
        breaking = asyncio.create_task(
            break_engines(
                supervisor,
                stores,
                counterfoils,
                client,
                requests=len(requests),
                seconds=outage_seconds if "outage" in actions else 0,
                tell=tell,
            )
        )
        try:
            await client.send(requests, sending.count)
            sending.is_over, sent = True, time.monotonic()
            await injecting
            outages = await breaking
        finally:
            for task in (injecting, breaking):
                task.cancel()  # no process may be paused once the supervisor stops
        reconciliation = await drain.reconciled(client.record, configuration.engines.reports, look)
        drained = time.monotonic()
    injector.count_taken()
    verdict = _verdict(
        reconciliation,
        seed=seed,
        engines=msgspec.to_builtins(configuration.engines),
        sabotage=sabotage,
        client=client,
        injector=injector,
        outages=outages,
        seconds={"start": up - started, "load": sent - up, "drain": drained - sent},
    )
    write_json(files.proof, msgspec.to_builtins(verdict))
    return verdict


async def refuse_purchases(counterfoils: Counterfoils, stores: Stores) -> None:
    """Refuse to start with existing rows: they would be counted, and their ledger changed.

    Raises:
        ProofError: there are some.
    """
    rows, _ = await asyncio.to_thread(service_rows, counterfoils, stores)
    if rows:
        raise ProofError(
            f"there are {len(rows):,} {counterfoils.rows} already, and a proof begins with none",
            hint="leave --addresses out: the proof starts servers of its own",
        )


class _Load:
    """The client's progress through its requests."""

    def __init__(self, number: int, tell: Progress) -> None:
        self.is_over = False
        """Whether sending has ended, with a final answer to every request or not."""
        self._done = 0
        self._number = number
        self._tell = tell

    def count(self, done: int) -> None:
        """Set the number of requests with a final answer."""
        self._done = done
        if done % DRAWN == 0 or done == self._number:
            self._tell("purchases", done, self._number)

    def progress(self) -> float:
        """The share done, 0 to 1."""
        return 1.0 if self.is_over else self._done / self._number


def _provable(
    application: Application, configuration: Configuration
) -> tuple[Counterfoils, Workload]:
    if configuration.issuer is None:
        raise ProofError(
            "a proof sends tokens of the development issuer, and there is no [issuer]",
            hint="prove a copy of the application with an [issuer] and a [gateway.identity]",
        )
    if application.counterfoils is None or application.make_workload is None:
        raise ProofError(
            f"{application.name} declares nothing that could be proved",
            hint="declare app.matches(Counterfoils(...)) and an @app.workload",
        )
    return application.counterfoils, application.make_workload


def _untold(_step: str, _done: int, _of: int) -> None:
    """Ignores progress."""


async def _tokens(issuer: str, requests: Sequence[Request]) -> dict[str, str]:
    """A token for each tenant of the workload, from the development issuer."""
    tenants = {request.tenant: request.tier for request in requests}
    tokens: dict[str, str] = {}
    async with aiohttp.ClientSession() as session:
        for tenant, tier in tenants.items():
            async with session.post(
                f"http://{issuer}/token", data={"tenant": tenant, "tier": tier}
            ) as response:
                response.raise_for_status()
                tokens[tenant] = (await response.json())["access_token"]
    return tokens


def _verdict(
    found: Reconciliation,
    *,
    seed: int,
    engines: dict[str, str],
    sabotage: str | None,
    client: Client,
    injector: FaultInjector,
    outages: list[Outage],
    seconds: dict[str, float],
) -> Verdict:
    record = client.record
    unanswered = record.sent - len(record.acknowledged)
    latencies = sorted(record.latencies_ms) or [0.0]
    return Verdict(
        verdict="holds" if found.difference_count == 0 and unanswered == 0 else "fails",
        seed=seed,
        engines=engines,
        sabotage=sabotage,
        sent=record.sent,
        attempts=record.attempts,
        acknowledged=len(record.acknowledged),
        refused=len(record.refused),
        ledger=found.sums["ledger"].count,
        lake=found.sums["lake"].count,
        report=found.sums["report"].count,
        revenue=found.sums["report"].amount,
        sums=found.sums,
        faults=dict(injector.counts),
        faulted=dict(injector.by_kind),
        outages=outages,
        refusals={
            "number": record.refusals,
            "without_retry_after": record.refusals_without_retry_after,
            "slowest_ms": round(record.slowest_refusal_ms, 1),
        },
        difference_count=found.difference_count + unanswered,
        differences=found.differences
        + [
            Difference("refused", "client", key, "2xx", str(status))
            for (_, key), status in list(record.refused.items())[:20]
        ],
        seconds={name: round(value, 2) for name, value in seconds.items()},
        latency_ms={
            "p50": round(latencies[len(latencies) // 2], 2),
            "p99": round(latencies[len(latencies) * 99 // 100], 2),
        },
    )
