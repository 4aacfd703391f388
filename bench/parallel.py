"""Work that waits, in parallel and in order by key, beside one by one: `python bench/parallel.py`.

The claim: one partition, 64 keys and 10 ms of work an event go at least 50 times faster than one
by one, each effect once, each key in order. Every round posts each result to the ledger and is
checked: order by key, the number of effects, the sum. Serial is the same with a concurrency of one.

A key with half of the events holds a plain layout back to its own pace; split by a subkey into
virtual partitions it does not. That is measured as well.

On Kafka, Pyrallel Consumer works on the same topic beside it (`parallel_pyrallel.py`). It is asked
for less: ours commits each event's effect in the ledger, once; its work is done at least once, and
it has no effects.
"""

import asyncio
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections import defaultdict
from contextlib import ExitStack, closing
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import cyclopts
import msgspec
from events import publish
from rich.console import Console
from rich.table import Table

from counterfoil.engines import RunningEngine, start
from counterfoil.events import (
    Context,
    EmbeddedEvents,
    Events,
    KafkaEvents,
    Message,
    Parallel,
    ParallelRunner,
    Topic,
    trial_balance,
)

HERE: Final = Path(__file__).parent
KEYS: Final = 64
WORK_SECONDS: Final = 0.010
APPEND: Final = 1_000
TARGET: Final = 50
PYRALLEL: Final = HERE.parent / ".tools" / "bench-pyrallel"
PYRALLEL_VERSION: Final = "1.0.0"
console = Console()


class Call(msgspec.Struct, frozen=True):
    id: int
    key: str


CALLS: Final = Topic("calls", Call, partitions=1)


class Wrong(Exception):
    """A round whose result is not right counts for nothing."""


def one_round(
    number: int,
    *,
    events: Events | None = None,
    concurrency: int = KEYS,
    threads: bool = False,
    hot: bool = False,
    split: bool = False,
) -> float:
    """Events a second over `number` events, from the first that is begun to the last commit.

    On new embedded events, or on those that are given.
    """
    order: defaultdict[str, list[int]] = defaultdict(list)
    began: list[float] = []

    async def wait(event: Call) -> int:
        if not began:
            began.append(time.perf_counter())
        await asyncio.sleep(WORK_SECONDS)
        return event.id

    def sleep(event: Call) -> int:
        if not began:
            began.append(time.perf_counter())
        time.sleep(WORK_SECONDS)
        return event.id

    parallel = Parallel("calls", CALLS, sleep if threads else wait, concurrency=concurrency)

    @parallel.then
    def post(event: Call, amount: int, context: Context) -> None:
        order[event.key].append(event.id)
        context.ledger.transfer(
            id=event.id, debit=event.key, credit="all", amount=amount, currency="USD", code="c"
        )

    if split:
        parallel.subkey = lambda event: str(event.id % KEYS)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        events = events or EmbeddedEvents(Path(folder))
        with closing(events.log()) as log:
            log.declare([CALLS])
            keys = ["hot" if hot and each % 2 else f"k{each % KEYS}" for each in range(number)]
            messages = [
                Message(each + 1, "calls", key, CALLS.encode(Call(each + 1, key)), {}, 1)
                for each, key in enumerate(keys)
            ]
            appender = log.appender("bench", 1)
            for start in range(0, number, APPEND):
                appender.append(messages[start : start + APPEND], start + 1)
        runner = ParallelRunner(events.log(), events.pipelines(), parallel, lambda: 1)
        done = 0
        while done < number:
            done += runner.step()
        took = time.perf_counter() - began[0]
        runner.close()
        sums = trial_balance(events.pipelines().database)["USD"]
    if done != number or sums != (number * (number + 1) // 2,) * 2:
        raise Wrong(f"{done} of {number} events, sums {sums}")
    if not split and any(each != sorted(each) for each in order.values()):
        raise Wrong("a key's events are out of order")
    return number / took


class OnKafka:
    """Ours and the peer on one topic of a broker, each round on a new one."""

    def __init__(self, kafka: RunningEngine, postgres: RunningEngine, python: Path) -> None:
        self._kafka = kafka
        self._postgres = postgres
        self._python = python
        self._application = ""

    def ours(self, number: int) -> float:
        """Fills a topic, and works on it with effects in PostgreSQL."""
        self._application = f"bench-{uuid.uuid4().hex[:8]}"
        postgres = self._postgres
        events = KafkaEvents(
            self._kafka.address, postgres.address, postgres.secret, self._application
        )
        return one_round(number, events=events)

    def peer(self, number: int) -> float:
        """Works on the topic that ours has filled."""
        arguments = {
            "servers": self._kafka.address,
            "topic": f"{self._application}.{CALLS.name}",
            "number": number,
            "work_seconds": WORK_SECONDS,
        }
        # Whoever ends the bench ends what it started, too.
        command = ["setpriv", "--pdeathsig", "TERM", str(self._python)]
        command += [str(HERE / "parallel_pyrallel.py"), json.dumps(arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Wrong(f"pyrallel-consumer: {done.stderr[-2_000:]}")
        found = json.loads(done.stdout.splitlines()[-1])
        if not found["in_order"] or found["done"] != number:
            raise Wrong(f"pyrallel-consumer: {found}")
        return found["rate"]


def pyrallel() -> Path:
    """Python with Pyrallel Consumer, made when it is missing."""
    python = PYRALLEL / "bin" / "python"
    if not python.exists():
        uv = shutil.which("uv") or str(HERE.parent / ".tools" / "uv" / "bin" / "uv")
        console.print(f"installing pyrallel-consumer {PYRALLEL_VERSION} into {PYRALLEL}")
        subprocess.run([uv, "venv", "--quiet", "--python", ">=3.12", str(PYRALLEL)], check=True)
        wanted = f"pyrallel-consumer=={PYRALLEL_VERSION}"
        command = [uv, "pip", "install", "--quiet", "--python", str(python), wanted]
        subprocess.run(command, check=True)
    return python


def main(
    *,
    rounds: int = 5,
    events: int = 10_000,
    kafka: bool = True,
    json_out: Path = HERE / "results" / "events.json",
) -> int:
    """Measure each layout in alternating rounds. Exit 1: not 50 times the serial rate.

    Parameters
    ----------
    rounds
        How often each is measured; the median counts.
    events
        Events of one parallel round; serial rounds take a hundredth of them.
    kafka
        On Kafka as well, beside Pyrallel Consumer, which needs Python 3.12.
    json_out
        Where the result document goes; of other cases, what was there stays.
    """
    few = max(events // 100, 20)
    layouts = {
        "serial": lambda: one_round(few, concurrency=1),
        "coroutines": lambda: one_round(events),
        "threads": lambda: one_round(events, threads=True),
        "hot key, plain": lambda: one_round(few * 2, hot=True),
        "hot key, split": lambda: one_round(events, hot=True, split=True),
    }
    measured: list[dict[str, float]] = []
    with ExitStack() as stack:
        broker: OnKafka | None = None
        if kafka:
            python = pyrallel()
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
            broker = OnKafka(
                stack.enter_context(start("kafka", folder / "kafka")),
                stack.enter_context(start("postgres", folder / "postgres")),
                python,
            )
        for number in range(rounds):
            names = list(layouts) if number % 2 == 0 else list(reversed(layouts))
            with console.status(f"round {number + 1} of {rounds}"):
                figures = {name: round(layouts[name](), 1) for name in names}
                if broker is not None:
                    figures["coroutines on Kafka"] = round(broker.ours(events), 1)
                    figures["pyrallel-consumer"] = round(broker.peer(events), 1)
                measured.append(figures)
    found = {name: statistics.median(each[name] for each in measured) for name in measured[0]}
    under = {
        "versions": {"counterfoil": version("counterfoil"), "python": platform.python_version()},
        "machine_cores": os.cpu_count(),
        "load_average_before": os.getloadavg()[0],
        "engine": "embedded: SQLite, synchronous=full",
        "partitions": 1,
        "keys": KEYS,
        "work_ms": WORK_SECONDS * 1_000,
        "concurrency": KEYS,
        "events": events,
        "rounds": rounds,
    }
    cases = [
        case("parallel", "coroutines", "serial", TARGET, found, measured, under),
        case("parallel: threads", "threads", "serial", None, found, measured, under),
        case("hot key", "hot key, split", "hot key, plain", None, found, measured, under),
    ]
    if kafka:
        beside = {
            "pyrallel_consumer": PYRALLEL_VERSION,
            "engine": "Kafka, one broker; ours: effects and positions in PostgreSQL, once; "
            "pyrallel-consumer: async, ordered by key, at least once, no effects",
        }
        name = "parallel on Kafka"
        peers = ("coroutines on Kafka", "pyrallel-consumer")
        cases.append(case(name, *peers, None, found, measured, {**under, **beside}))
    table = Table("case", "events/s", "peer", "events/s", "ratio", box=None)
    for each in cases:
        ((peer, figure),) = each["peers"].items()
        ratio = f"{each['ratio'][peer]:.1f}"
        table.add_row(each["name"], f"{each['ours']:,.0f}", peer, f"{figure:,.0f}", ratio)
    console.print(table)
    publish(cases, json_out)
    return 0 if cases[0]["ratio"]["serial"] >= TARGET else 1


def case(
    name: str,
    ours: str,
    peer: str,
    target: int | None,
    found: dict[str, float],
    measured: list[dict[str, float]],
    under: dict[str, Any],
) -> dict[str, Any]:
    """An entry of the document."""
    entry: dict[str, Any] = {
        "name": name,
        "unit": "events/s",
        "ours": found[ours],
        "peers": {peer: found[peer]},
        "ratio": {peer: round(found[ours] / found[peer], 2)},
    }
    if target is not None:
        entry["target"] = {"peer": peer, "ratio_at_least": target}
    return entry | {
        "rounds": [{ours: each[ours], peer: each[peer]} for each in measured],
        "conditions": under,
    }


if __name__ == "__main__":
    sys.exit(cyclopts.run(main))
