"""Runs random transactions on a Kafka cluster and checks their history for anomalies."""

import tempfile
import threading
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from counterfoil.application import load
from counterfoil.cli.output import new_console, out, print_table, write_json
from counterfoil.engines import RunningEngine, start
from counterfoil.errors import CounterfoilError
from counterfoil.kafka_access import KafkaAccess
from counterfoil.proof.anomalies import KINDS, History, Verdict, check
from counterfoil.proof.anomalies.kafka import run
from counterfoil.supervisor import Addresses, configured_engines, kafka_access

SHOWN = 10


def cluster(servers: str, application: Path | None) -> KafkaAccess | None:
    """The cluster at `servers`, or that of an application with what opens it; None for neither.

    Raises:
        CounterfoilError: the application has none.
    """
    if application is None:
        return KafkaAccess(servers) if servers else None
    configuration = load(application, engines="events=kafka")
    found = configured_engines(configuration)
    if "kafka" not in found:
        raise CounterfoilError(
            f"{application} has no cluster of its own", hint="set kafka in [addresses]"
        )
    return kafka_access(configuration, Addresses("", "", "", "", engines=found))


def verify(
    access: KafkaAccess | None,
    *,
    clients: int,
    transactions: int,
    seed: int,
    kill_every: float,
    bug: str | None,
    quiet: bool,
) -> History:
    """The history of a run; without `access` on a broker of its own, which may be killed."""
    with ExitStack() as stack:
        if access is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="counterfoil-")))
            kafka = stack.enter_context(start("kafka", folder))
            access = KafkaAccess(kafka.address)
            if kill_every:
                stack.enter_context(_killed(kafka, kill_every))
        progress = stack.enter_context(
            Progress(
                TextColumn("transactions"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                console=new_console(stderr=True),
                disable=quiet,
            )
        )
        task = progress.add_task("", total=transactions)
        return run(
            access,
            clients=clients,
            transactions=transactions,
            seed=seed,
            bug=bug,
            progress=lambda number: progress.update(task, completed=number),
        )


@contextmanager
def _killed(kafka: RunningEngine, every: float) -> Generator[None]:
    """Kills the broker now and then, and starts it again."""
    over = threading.Event()

    def work() -> None:
        while not over.wait(every):
            kafka.kill()
            kafka.start()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def report(history: History, *, as_json: bool) -> bool:
    """Print what was found; whether it holds."""
    verdict = check(history)
    if as_json:
        write_json({"holds": verdict.holds, **msgspec.to_builtins(verdict)})
    else:
        _print(verdict)
    return verdict.holds


def _print(verdict: Verdict) -> None:
    ended = ", ".join(f"{number} {outcome}" for outcome, number in verdict.transactions.items())
    out.print(f"transactions: {ended or 'none'}")
    out.print(f"values: {verdict.values_sent} sent, {verdict.values_read} read")
    if verdict.counts:
        print_table(
            ("anomaly", "times", "what it means"),
            [(kind, number, KINDS[kind]) for kind, number in verdict.counts.items()],
        )
    for anomaly in [each for each in verdict.anomalies if not each.allowed][:SHOWN]:
        numbers = ", ".join(map(str, anomaly.transactions))
        out.print(
            f"  {anomaly.kind}: {anomaly.what} (transactions {numbers})",
            highlight=False,
            markup=False,
        )
    if verdict.holds:
        allowed = sum(1 for each in verdict.anomalies if each.allowed)
        more = f"; {allowed} cycles of writes, which the log allows" if allowed else ""
        out.print(f"[green]holds[/]: no anomaly{more}")
    elif verdict.anomalies:
        out.print("[red]does not hold[/]")
    else:
        out.print("[red]nothing is known[/]: no transaction was committed and read")
