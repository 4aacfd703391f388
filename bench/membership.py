"""A rolling restart of a pipeline's processes: `python bench/membership.py`.

Four workers handle a topic of eight partitions; each is ended in order and begun again, one after
the other, while events keep coming. What is counted are rebalances (callbacks of workers that were
not restarted), partitions that were handled by another worker than before, and for how long the
partitions of workers that were not restarted stood still at most.

Ours owns partitions by number (`events/shares.py`) and is in no group, so that there is nothing to
rebalance. Beside it: plain consumers in a group, and the same as static members.
"""

import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import cyclopts
import msgspec
from exactly_once import Positive
from rich.console import Console
from rich.table import Table

from counterfoil.engines import start
from counterfoil.events import (
    EmbeddedEvents,
    KafkaEvents,
    LogPipelineRunner,
    LogUnavailable,
    Message,
    Pipeline,
    Share,
    StatelessContext,
    TermOver,
    Topic,
)
from counterfoil.events.topics import partition_of

HERE: Final = Path(__file__).parent
WORKERS: Final = 4
PARTITIONS: Final = 8
EVERY_SECONDS: Final = 0.05
"""Between two events of a partition."""
SESSION_MS: Final = 30_000
SETTLE_SECONDS: Final = 3.0
"""Between two restarts, once the worker handles events again."""
PATIENCE_SECONDS: Final = 60.0
console = Console(stderr=True)
app = cyclopts.App(help=__doc__)


class Tick(msgspec.Struct, frozen=True):
    """An event that knows its partition."""

    partition: int


TICKS: Final = Topic("ticks", Tick, partitions=PARTITIONS)


def say(**what: object) -> None:
    """One line, in one write."""
    os.write(1, json.dumps({**what, "at": time.monotonic()}).encode() + b"\n")


@app.command
def ours(servers: str, application: str, number: int) -> None:
    """Be one process of a pipeline until SIGTERM."""
    stop = _stopping()
    log = KafkaEvents(servers, "", None, application).log()

    def note(event: Tick, context: StatelessContext) -> None:
        say(handled=event.partition)

    pipeline = Pipeline("notes", TICKS, note, stateless=True)
    with tempfile.TemporaryDirectory(prefix="worker-") as folder:
        store = EmbeddedEvents(Path(folder)).pipelines()
        while not stop.is_set():
            try:
                share = Share(number, WORKERS)
                with closing(
                    LogPipelineRunner(log, store, pipeline, lambda: time.time_ns() // 1_000, share)
                ) as runner:
                    while not stop.is_set():
                        runner.step()
            except (TermOver, LogUnavailable) as error:
                print(f"# {error}", file=sys.stderr, flush=True)
                time.sleep(0.2)


@app.command
def group(servers: str, application: str, number: int, static: int) -> None:
    """Be a plain consumer of a group until SIGTERM."""
    from confluent_kafka import Consumer

    stop = _stopping()
    settings: dict[str, Any] = {
        "bootstrap.servers": servers,
        "group.id": f"{application}.{'static' if static else 'dynamic'}",
        "auto.offset.reset": "latest",
        "session.timeout.ms": SESSION_MS,
        "isolation.level": "read_committed",
    }
    if static:
        settings["group.instance.id"] = f"worker-{number}"

    def assigned(_: Consumer, partitions: list[Any]) -> None:
        say(assigned=[each.partition for each in partitions])

    with closing(Consumer(settings)) as consumer:
        consumer.subscribe([f"{application}.{TICKS.name}"], on_assign=assigned)
        while not stop.is_set():
            message = consumer.poll(0.1)
            if message is not None and message.error() is None:
                say(handled=message.partition())


def _stopping() -> threading.Event:
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    return stop


class Worker:
    """A process that is ended in order and begun again; remembers what all its lives have said."""

    def __init__(self, *arguments: str) -> None:
        self._arguments = arguments
        self.said: list[dict[str, Any]] = []
        self.begin()

    def begin(self) -> None:
        """Start it."""
        # Whoever ends this script ends what it started, too.
        before = ["setpriv", "--pdeathsig", "KILL", sys.executable, __file__]
        self._process = subprocess.Popen(
            [*before, *self._arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        threading.Thread(target=self._read, args=(self._process,), daemon=True).start()

    def end(self) -> None:
        """SIGTERM, and wait."""
        self._process.terminate()
        self._process.wait(PATIENCE_SECONDS)

    def handled_since(self, moment: float) -> set[int]:
        """The partitions of which it has handled anything since then."""
        return {
            each["handled"] for each in list(self.said) if "handled" in each and each["at"] > moment
        }

    def _read(self, process: "subprocess.Popen[bytes]") -> None:
        for line in process.stdout or ():
            if line.startswith(b'{"'):  # the rest is what its log says
                self.said.append(json.loads(line))


def restart_all(workers: list[Worker]) -> tuple[float, float, list[tuple[float, float]]]:
    """A rolling restart; returns its beginning and end, and each worker's own."""
    _until_all_handle(workers, time.monotonic())
    time.sleep(SETTLE_SECONDS)
    began = time.monotonic()
    spans: list[tuple[float, float]] = []
    for worker in workers:
        ended = time.monotonic()
        worker.end()
        worker.begin()
        _until_all_handle(workers, time.monotonic())
        spans.append((ended, time.monotonic()))
        time.sleep(SETTLE_SECONDS)
    return began, time.monotonic(), spans


def _until_all_handle(workers: list[Worker], moment: float) -> None:
    """Wait until each worker handles something, and every partition is handled."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        found = [each.handled_since(moment) for each in workers]
        if all(found) and len(set.union(*found)) == PARTITIONS:
            return
        if time.monotonic() > deadline:
            raise SystemExit(f"after {PATIENCE_SECONDS} s some handle nothing: {found}")
        time.sleep(0.05)


def judge(
    workers: list[Worker], began: float, ended: float, spans: list[tuple[float, float]]
) -> dict[str, float]:
    """What the restart of some did to others."""
    handled = sorted(
        (each["at"], each["handled"], number)
        for number, worker in enumerate(workers)
        for each in list(worker.said)
        if "handled" in each and began - SETTLE_SECONDS < each["at"] < ended
    )
    moved, last, pauses = 0, dict[int, tuple[float, int]](), [0.0]
    for at, partition, worker in handled:
        if partition in last:
            before, owner = last[partition]
            moved += owner != worker
            # A pause is the restarted worker's own where it had the partition when it was ended.
            if not any(start < at and before < end for start, end in [spans[owner]]):
                pauses.append(at - before)
        last[partition] = (at, worker)
    rebalances = sum(
        began < each["at"] < ended and not spans[number][0] < each["at"] < spans[number][1]
        for number, worker in enumerate(workers)
        for each in list(worker.said)
        if "assigned" in each
    )
    return {
        "rebalances": rebalances,
        "moved_partitions": moved,
        "longest_pause_elsewhere_ms": round(max(pauses) * 1_000),
        "longest_restart_ms": round(max(end - start for start, end in spans) * 1_000),
    }


def produce(servers: str, application: str, stop: threading.Event) -> None:
    """An event for every partition again and again."""
    log = KafkaEvents(servers, "", None, application).log()
    log.declare([TICKS])
    keys: dict[int, str] = {}
    for number in range(1_000):
        keys.setdefault(partition_of(f"k{number}", PARTITIONS), f"k{number}")
    while not stop.is_set():
        try:
            with closing(log.appender("clock", 1)) as appender:
                while not stop.wait(EVERY_SECONDS):
                    number = appender.position
                    ticks = [
                        Message(number + each, TICKS.name, key, TICKS.encode(Tick(each)), {}, 1)
                        for each, key in keys.items()
                    ]
                    appender.append(ticks, number + PARTITIONS)
        except (TermOver, LogUnavailable) as error:
            console.print(f"the clock begins again: {error}")


@app.default
def main(*, rounds: Positive = 3, json_out: Path = HERE / "results" / "membership.json") -> int:
    """Restart four workers of each kind, one after the other. Exit 1: ours was not left alone.

    Parameters
    ----------
    rounds
        How often; the worst counts.
    json_out
        Where the result document goes.
    """
    kinds = {"ours": ["ours"], "group": ["group", "0"], "static group": ["group", "1"]}
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in kinds}
    under = {
        "versions": {"counterfoil": version("counterfoil"), "python": platform.python_version()},
        "machine_cores": os.cpu_count(),
        "load_average_before": os.getloadavg()[0],
        "engine": "Kafka, one broker; classic protocol, default assignors",
        "workers": WORKERS,
        "partitions": PARTITIONS,
        "session_timeout_ms": SESSION_MS,
        "restart": "SIGTERM, and begun again at once",
    }
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        start("kafka", Path(folder)) as kafka,
    ):
        for number in range(rounds):
            for kind, (command, *more) in kinds.items():
                application = f"membership-{uuid.uuid4().hex[:8]}"
                KafkaEvents(kafka.address, "", None, application).log().declare([TICKS])
                stop = threading.Event()
                producing = threading.Thread(
                    target=produce, args=(kafka.address, application, stop)
                )
                producing.start()
                workers = [
                    Worker(command, kafka.address, application, str(each), *more)
                    for each in range(WORKERS)
                ]
                try:
                    figures = judge(workers, *restart_all(workers))
                finally:
                    for each in workers:
                        each.end()
                    stop.set()
                    producing.join()
                found[kind].append(figures)
                console.print(f"round {number + 1}, {kind}: {figures}")
    return tell(found, under, json_out)


def tell(found: dict[str, list[dict[str, float]]], under: dict[str, Any], json_out: Path) -> int:
    """Write the document and print the table."""
    names = list(found["ours"][0])
    worst = {
        kind: {name: max(each[name] for each in some) for name in names}
        for kind, some in found.items()
    }
    table = Table("workers", *names, box=None)
    for kind, figures in worst.items():
        table.add_row(kind, *(f"{figures[name]:,.0f}" for name in names))
    console.print(table)
    cases = [
        {
            "name": f"rolling restart: {name}",
            "unit": name.rpartition("_")[2] if name.endswith("_ms") else "",
            "ours": worst["ours"][name],
            "peers": {kind: worst[kind][name] for kind in found if kind != "ours"},
            "median": {
                kind: statistics.median(each[name] for each in some) for kind, some in found.items()
            },
            "conditions": under,
        }
        for name in names
    ]
    json_out.parent.mkdir(parents=True, exist_ok=True)
    json_out.write_text(json.dumps({"cases": cases}, indent=2) + "\n")
    return int(worst["ours"]["rebalances"] + worst["ours"]["moved_partitions"] > 0)


if __name__ == "__main__":
    sys.exit(app())
