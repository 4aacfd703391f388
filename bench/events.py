"""Events beside what they are compared with: `python bench/events.py`.

Each run is a process of its own (`events_runs.py`, `events_quix.py`), so that one contestant's
memory and threads are not another's. Rounds take all contestants of a case in turn and begin with
another one each time; a figure is the median of its rounds. All of a case read and write the same
kind of payments, on the same broker where there is one.

A busy machine takes throughput from everybody, but not evenly. So the CPU time of a message is
measured as well: of the contestant's process alone, neither broker nor database among it.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Final

import cyclopts
from rich.console import Console
from rich.table import Table

from counterfoil.engines import RunningEngine, kafka, start

HERE: Final = Path(__file__).parent
OURS: Final = "ours"
QUIX: Final = HERE.parent / ".tools" / "bench-quix"
QUIX_VERSION: Final = "3.28.1"
"""Of its own environment: it needs an older confluent-kafka than Counterfoil."""
Positive = Annotated[int, cyclopts.Parameter(validator=cyclopts.validators.Number(gte=1))]
console = Console()


class BenchError(Exception):
    """A run gave no figure that could be used."""


@dataclass(frozen=True)
class Case:
    """A claim: `contestants` are runs by name with their arguments, ours first."""

    name: str
    unit: str
    contestants: dict[str, tuple[str, dict[str, Any]]]
    conditions: dict[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class Servers:
    """The engines that some cases need, started when one does."""

    stack: ExitStack
    running: dict[str, RunningEngine] = field(default_factory=dict[str, RunningEngine])

    def get(self, name: str) -> RunningEngine:
        """The running engine."""
        if name not in self.running:
            folder = self.stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-"))
            self.running[name] = self.stack.enter_context(start(name, Path(folder)))
        return self.running[name]


def exactly_once_json(messages: int, servers: Servers) -> Case:
    """Consume, transform and produce on Kafka; a stateless pipeline beside what users write."""
    on_broker = {"number": messages, "limit": 10_000, "servers": servers.get("kafka").address}
    return Case(
        "exactly-once-json",
        "messages/s",
        {
            OURS: ("kafka", on_broker),
            "quixstreams": ("quix", on_broker),
            "plain-loop": ("kafka_plain", on_broker),
        },
        {"transactions": "of at most 10,000 messages", "quixstreams": QUIX_VERSION},
    )


def cost_of_exactly_once(messages: int, servers: Servers) -> Case:
    """The same pipeline with and without the transaction."""
    on_broker = {"number": messages, "limit": 10_000, "servers": servers.get("kafka").address}
    return Case(
        "cost of exactly once",
        "messages/s",
        {OURS: ("kafka", on_broker), "at-least-once": ("kafka_at_least_once", on_broker)},
        {"at-least-once": "ours with an idempotent producer, positions once all is acknowledged"},
    )


def embedded_thousands(messages: int, _: Servers) -> Case:
    """The embedded log with keyed state, in commits of 1,000."""
    run = {"number": messages, "limit": 1_000}
    return Case(
        "embedded, commits of 1,000",
        "messages/s",
        {OURS: ("embedded", run), "plain-sqlite": ("plain_sqlite", run)},
        {"state": "1,000 keys", "durability": "synchronous = FULL"},
    )


def embedded_tens(messages: int, _: Servers) -> Case:
    """The same in commits of 10, from one partition."""
    run = {"number": messages // 10, "limit": 10}
    return Case(
        "embedded, commits of 10",
        "messages/s",
        {OURS: ("embedded", {**run, "partitions": 1}), "plain-sqlite": ("plain_sqlite", run)},
        {"state": "1,000 keys", "durability": "synchronous = FULL"},
    )


def poison(messages: int, _: Servers) -> Case:
    """One message in 1,000 can't be handled, and becomes a dead letter."""
    run = {"number": messages, "limit": 1_000}
    return Case(
        "poison 1 in 1,000",
        "messages/s",
        {OURS: ("embedded", {**run, "poison": True}), "clean": ("embedded", run)},
        {"tries": "3 for each poisonous message"},
    )


def ledger(messages: int, servers: Servers) -> Case:
    """Durable transfers; balances are compared with a rebuild after each of our runs."""
    postgres = servers.get("postgres")
    rows = {"number": messages // 50, "uri": postgres.address, "password": postgres.secret}
    return Case(
        "ledger",
        "transfers/s",
        {OURS: ("ledger", {"number": messages}), "postgres-rows": ("postgres_rows", rows)},
        {
            "ours": "commits of 1,000 on SQLite",
            "postgres-rows": "a transaction for each transfer, one connection",
            "tigerbeetle": "not measured: registries have its client, not its server",
        },
    )


def retention(messages: int, _: Servers) -> Case:
    """What the slowest of 1,000 appends takes while ten times the messages are forgotten."""
    run = {"number": messages * 10}
    return Case(
        "retention of the embedded log",
        "ms for the slowest append",
        {
            OURS: ("retention", {**run, "deleting": True}),
            "nothing-forgotten": ("retention", {**run, "deleting": False}),
        },
        {"events": messages * 10},
    )


def opening(messages: int, _: Servers) -> Case:
    """How long a log of 100 times the messages takes to open and to give its last record."""
    return Case(
        "opening the embedded log",
        "ms",
        {OURS: ("opening", {"number": messages * 100})},
        {"events": messages * 100},
    )


CASES: Final[dict[str, Callable[[int, Servers], Case]]] = {
    each.__name__.replace("_", "-"): each
    for each in (
        exactly_once_json,
        cost_of_exactly_once,
        embedded_thousands,
        embedded_tens,
        poison,
        ledger,
        retention,
        opening,
    )
}


def run(name: str, arguments: dict[str, Any]) -> dict[str, float]:
    """One run in its own process."""
    if "servers" in arguments:
        arguments = {**arguments, "application": f"bench-{uuid.uuid4().hex[:8]}"}
        fill = {key: arguments[key] for key in ("number", "servers", "application")}
        _process([sys.executable, str(HERE / "events_runs.py"), "fill", json.dumps(fill)])
    if name == "quix":
        return _process([str(quix()), str(HERE / "events_quix.py"), json.dumps(arguments)])
    return _process([sys.executable, str(HERE / "events_runs.py"), name, json.dumps(arguments)])


def _process(command: list[str]) -> dict[str, float]:
    # Whoever ends the bench ends what it started, too.
    command = ["setpriv", "--pdeathsig", "TERM", *command]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"{' '.join(command)}: {done.stderr[-2_000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def quix() -> Path:
    """Python with Quix Streams, made when it is missing."""
    python = QUIX / "bin" / "python"
    if not python.exists():
        console.print(f"installing quixstreams {QUIX_VERSION} into {QUIX}")
        subprocess.run([sys.executable, "-m", "venv", str(QUIX)], check=True)
        wanted = f"quixstreams=={QUIX_VERSION}"
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", wanted], check=True)
    return python


def measure(case: Case, rounds: int) -> dict[str, Any]:
    """An entry of the result document."""
    names = list(case.contestants)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            began = time.monotonic()
            figures = run(*case.contestants[name])
            found[name].append(figures)
            said = ", ".join(f"{metric} {value:,.1f}" for metric, value in figures.items())
            took = time.monotonic() - began
            console.print(f"{case.name}, {number + 1}/{rounds} {name} ({took:.0f} s): {said}")
    medians = {name: statistics.median(one["figure"] for one in found[name]) for name in names}
    cpu = {
        name: round(statistics.median(one["cpu_us"] for one in found[name]), 2)
        for name in names
        if "cpu_us" in found[name][0]
    }
    ours = medians.pop(OURS)
    return {
        "name": case.name,
        "unit": case.unit,
        "ours": round(ours, 1),
        "peers": {name: round(value, 1) for name, value in medians.items()},
        "ratio": {name: round(ours / value, 2) for name, value in medians.items()},
        "cpu_us_per_message": cpu,
        "rounds": {name: [round(one["figure"], 1) for one in found[name]] for name in names},
        "conditions": {**conditions(), **case.conditions},
    }


def conditions() -> dict[str, Any]:
    """Under which the figures hold."""
    return {
        "versions": {
            "counterfoil": version("counterfoil"),
            "confluent-kafka": version("confluent-kafka"),
            "kafka": kafka.VERSION,
            "python": platform.python_version(),
            "kernel": platform.release(),
        },
        "machine_cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 1),
        "CPU": "of the contestant's process, without broker and database",
    }


def table(entries: list[dict[str, Any]]) -> Table:
    """The medians, a row for each peer."""
    shown = Table("case", "unit", "ours", "peer", "theirs", "ratio", title="events")
    for entry in entries:
        peers = entry["peers"] or {"": 0.0}
        for name, value in peers.items():
            ratio = f"{entry['ratio'][name]:.2f}" if name else ""
            theirs = f"{value:,.0f}" if name else ""
            shown.add_row(
                entry["name"], entry["unit"], f"{entry['ours']:,.0f}", name, theirs, ratio
            )
    return shown


def main(
    *cases: str,
    rounds: Positive = 3,
    messages: Positive = 100_000,
    json_out: Path = HERE / "results" / "events.json",
) -> int:
    """Measure events beside their peers.

    Parameters
    ----------
    cases
        Which ones; all if none is named.
    rounds
        How often each contestant runs.
    messages
        How many messages a run has.
    json_out
        Where the result document goes; of cases that aren't measured, what was there stays.
    """
    with ExitStack() as stack:
        servers = Servers(stack)
        entries = [measure(CASES[name](messages, servers), rounds) for name in cases or CASES]
    console.print(table(entries))
    publish(entries, json_out)
    return 0


def publish(entries: list[dict[str, Any]], path: Path) -> None:
    """Put entries into a result document, in the place of those of the same names."""
    earlier = json.loads(path.read_text())["cases"] if path.exists() else []
    known = {each["name"]: each for each in [*earlier, *entries]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"cases": list(known.values())}, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(cyclopts.run(main))
