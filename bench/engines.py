"""The shop on every combination of engines: `python bench/engines.py`.

Each run is `counterfoil prove examples/shop --faults none`: the same purchases from the same seed,
by the proof's own client, which sends again until it has an answer. A run counts only if its
verdict holds, so every figure is of purchases that arrived once. Each round takes all combinations
in turn and begins with another one.

Everything shares the machine's cores: engines, shop and client. Throughput therefore says what a
whole small machine does, and the ratios say what an engine costs; what an engine does on machines
of its own they don't say.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Final

import cyclopts
from rich.console import Console
from rich.table import Table

from counterfoil.engines import etcd, kafka

HERE: Final = Path(__file__).parent
SHOP: Final = HERE.parent / "examples" / "shop"
EMBEDDED: Final = "all embedded"
COMBINATIONS: Final = {
    EMBEDDED: "",
    "limits on Redis": "limits=redis",
    "coordination on etcd": "coordination=etcd",
    "events on Kafka": "events=kafka",
    "reports on Spark": "reports=spark",
    "all but Spark": "events=kafka,coordination=etcd,limits=redis",
    "all": "events=kafka,reports=spark,coordination=etcd,limits=redis",
}
METRICS: Final = ("purchases/s", "p50 ms", "p99 ms", "CPU ms/purchase", "drain s", "start s")
Positive = Annotated[int, cyclopts.Parameter(validator=cyclopts.validators.Number(gte=1))]
console = Console()


class BenchError(Exception):
    """A run gave no figure that could be used."""


def run(engines: str, purchases: int, seed: int) -> dict[str, float]:
    """The figures of one run of the shop."""
    counterfoil = str(Path(sys.executable).with_name("counterfoil"))
    # Whoever ends the bench ends what it started, too.
    command = ["setpriv", "--pdeathsig", "TERM", counterfoil, "prove", str(SHOP), "--json"]
    command += ["--faults", "none", "--purchases", str(purchases), "--seed", str(seed)]
    command += ["--engines", engines] if engines else []
    before = os.times()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        done = subprocess.run(
            [*command, "--state", f"{folder}/state"], capture_output=True, text=True, check=False
        )
    after = os.times()
    if done.returncode:
        raise BenchError(f"{engines or EMBEDDED}: {done.stdout[-2_000:]}{done.stderr[-2_000:]}")
    verdict = json.loads(done.stdout)
    spent = after.children_user + after.children_system
    spent -= before.children_user + before.children_system
    seconds, latency = verdict["seconds"], verdict["latency_ms"]
    return {
        "purchases/s": purchases / seconds["load"],
        "p50 ms": latency["p50"],
        "p99 ms": latency["p99"],
        "CPU ms/purchase": spent * 1_000 / purchases,
        "drain s": seconds["drain"],
        "start s": seconds["start"],
    }


def conditions(rounds: int, purchases: int) -> dict[str, Any]:
    """Under which the figures hold."""
    return {
        "versions": {
            "counterfoil": version("counterfoil"),
            "kafka": kafka.VERSION,
            "etcd": etcd.VERSION,
            "spark": version("pyspark"),
            "postgres": _said("psql", "--version"),
            "redis": _said("redis-server", "--version"),
            "python": platform.python_version(),
            "kernel": platform.release(),
        },
        "machine_cores": os.cpu_count(),
        "load_average_before": os.getloadavg()[0],
        "purchases": purchases,
        "rounds": rounds,
        "load": "the proof's client: 64 at a time, each waits for its answer",
        "CPU": "of all processes, start and end of the engines among them",
        "drain": "from the last answer until the report has every purchase, and 2 s of calm",
    }


def _said(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def entries(measured: dict[str, list[dict[str, float]]], under: dict[str, Any]) -> list[Any]:
    """An entry for each metric and combination, the ratio to all embedded beside it."""
    found = []
    for metric in METRICS:
        medians = {
            name: statistics.median(one[metric] for one in rounds)
            for name, rounds in measured.items()
        }
        found.append(
            {
                "name": f"the shop: {metric}",
                "unit": metric,
                "medians": {name: round(value, 2) for name, value in medians.items()},
                "ratio": {
                    name: round(value / medians[EMBEDDED], 2) for name, value in medians.items()
                },
                "rounds": {
                    name: [round(one[metric], 2) for one in rounds]
                    for name, rounds in measured.items()
                },
                "conditions": under,
            }
        )
    return found


def table(found: list[Any]) -> Table:
    """The medians, a row for each combination."""
    shown = Table("the shop", *(entry["unit"] for entry in found))
    for name in COMBINATIONS:
        shown.add_row(name, *(f"{entry['medians'][name]:,.1f}" for entry in found))
    return shown


def main(
    *,
    rounds: Positive = 3,
    purchases: Positive = 5_000,
    json_out: Path = HERE / "results" / "engines.json",
) -> int:
    """Measure the shop's throughput, latency and CPU time on each combination of engines.

    Parameters
    ----------
    rounds
        How often each combination runs.
    purchases
        How many purchases a run has.
    json_out
        Where the result document goes.
    """
    under = conditions(rounds, purchases)
    names = list(COMBINATIONS)
    measured: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            began = time.monotonic()
            figures = run(COMBINATIONS[name], purchases, seed=number + 1)
            measured[name].append(figures)
            said = ", ".join(f"{metric} {value:,.1f}" for metric, value in figures.items())
            console.print(
                f"{number + 1}/{rounds} {name} ({time.monotonic() - began:.0f} s): {said}"
            )
    found = entries(measured, under)
    console.print(table(found))
    json_out.parent.mkdir(parents=True, exist_ok=True)
    json_out.write_text(json.dumps({"cases": found}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(cyclopts.run(main))
