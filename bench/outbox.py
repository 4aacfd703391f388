"""The transactional outbox while everything dies, and what it costs: `python bench/outbox.py`.

Two instances of an application write rows and events; a relay moves the events to Kafka. Round
after round one of application, relay and PostgreSQL is killed (SIGKILL), once events have moved
since the last time. Afterwards the table of rows is read by psycopg and the topic by a plain
consumer, neither of which shares code with what wrote: every row must have its event once, and
every event its row, with the same amount; and what an instance was told to be committed must be
there. Both ways of reading the outbox are tried: the table, and PostgreSQL's log.

Then the cost: how many commits a second several instances come to, with either.
"""

import json
import os
import platform
import secrets
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Generator
from contextlib import closing, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, Literal

import cyclopts
import msgspec
from exactly_once import NotNegative, Positive, plain_read
from rich.console import Console
from rich.table import Table

from counterfoil.engines import RunningEngine, start
from counterfoil.events import (
    Command,
    KafkaEvents,
    LogUnavailable,
    Relay,
    Reply,
    ServiceStore,
    StoreUnavailable,
    TermOver,
    Topic,
    Unit,
)
from counterfoil.events.replication import Slot

HERE: Final = Path(__file__).parent
SOURCE: Final = "bank"
INSTANCES: Final = 2
WAITING: Final = 4
"""Commands that an instance has under way."""
MOVED: Final = 20
"""Events between two kills, at least: whoever was killed has come back and works."""
PATIENCE_SECONDS: Final = 90.0
"""Without progress: longer than PostgreSQL takes to recover on a busy machine."""
WAYS: Final = ("table", "log")
SCHEMA: Final = "CREATE TABLE IF NOT EXISTS paid (id INTEGER PRIMARY KEY, amount INTEGER NOT NULL)"
console = Console(stderr=True)
app = cyclopts.App(help=__doc__)
Way = Literal["table", "log"]


class Paid(msgspec.Struct, frozen=True):
    """A row, and the event that tells of it."""

    id: int
    amount: int


PAID: Final = Topic("paid", Paid, partitions=4)


def events_of(kafka: str, postgres: str, application: str, way: Way) -> KafkaEvents:
    """The engines; the password comes from PGPASSWORD."""
    password = os.environ.get("PGPASSWORD")
    return KafkaEvents(kafka, postgres, password, application, outbox_from=way)


def pay(unit: Unit) -> Reply:
    """A row and its event."""
    number = unit.new_id()
    unit.execute("INSERT INTO paid VALUES (?, ?)", (number, number % 9_973))
    unit.publish(PAID, Paid(number, number % 9_973), key=str(number % 100), event_id=number)
    return Reply(201, str(number).encode(), {})


def new_id() -> int:
    """Unique over all instances and their lives; 62 bits."""
    return secrets.randbits(62)


@contextmanager
def store_of(events: KafkaEvents) -> Generator[ServiceStore, None, None]:
    """The application's part of the database."""
    with closing(
        ServiceStore(
            events.service(SOURCE),
            [SCHEMA],
            next_id=new_id,
            clock_us=lambda: time.time_ns() // 1_000,
        )
    ) as store:
        yield store


def command() -> Command:
    """A payment of its own."""
    return Command(uuid.uuid4().hex, b"", {}, pay)


@app.command
def write(kafka: str, postgres: str, application: str, way: Way) -> None:
    """Be an instance of the application for ever; a line for each acknowledged row."""
    events = events_of(kafka, postgres, application, way)

    def one_by_one(store: ServiceStore) -> None:
        while True:
            try:
                # One write, which the lines of other threads can't get into.
                os.write(1, store.submit(command()).result().body + b"\n")
            except StoreUnavailable:
                time.sleep(0.1)

    while True:
        try:
            with store_of(events) as store:
                clients = [
                    threading.Thread(target=one_by_one, args=(store,), daemon=True)
                    for _ in range(WAITING)
                ]
                for client in clients:
                    client.start()
                for client in clients:
                    client.join()
        except StoreUnavailable:
            time.sleep(0.2)


@app.command
def relay(kafka: str, postgres: str, application: str, way: Way) -> None:
    """Be the relay for ever, term after term; a line for each portion, with its size."""
    events = events_of(kafka, postgres, application, way)
    log = events.log()
    while True:
        try:
            log.declare([PAID])
            with (
                closing(events.outbox(SOURCE)) as outbox,
                closing(log.appender(SOURCE, 1)) as appender,
            ):
                term = Relay(outbox, appender)
                while True:
                    if moved := term.step():
                        print(moved, flush=True)
                    else:
                        time.sleep(0.01)
        except (TermOver, LogUnavailable, StoreUnavailable) as error:
            print(f"# {error}", file=sys.stderr, flush=True)
            time.sleep(0.2)


class Process:
    """One that is killed and begun again; remembers the lines of all its lives."""

    def __init__(self, *arguments: str) -> None:
        self._arguments = arguments
        self.lines: list[int] = []
        self.begin()

    def begin(self) -> None:
        """Start it."""
        # Whoever ends this script ends what it started, too.
        before = ["setpriv", "--pdeathsig", "KILL", sys.executable, __file__]
        self._process = subprocess.Popen(
            [*before, *self._arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self._reading = threading.Thread(target=self._read, args=(self._process,), daemon=True)
        self._reading.start()

    def kill(self) -> None:
        """SIGKILL; what it had said before was read when this returns."""
        self._process.kill()
        self._process.wait()
        self._reading.join()

    def _read(self, process: "subprocess.Popen[bytes]") -> None:
        for line in process.stdout or ():
            if line.endswith(b"\n") and line.strip().isdigit():  # a kill may cut a line short
                self.lines.append(int(line))


def kills(kafka: RunningEngine, postgres: RunningEngine, way: Way, rounds: int) -> dict[str, Any]:
    """Kill one after the other, then count."""
    application = f"outbox-{way}-{uuid.uuid4().hex[:8]}"
    arguments = (kafka.address, postgres.address, application, way)
    mover = Process("relay", *arguments)
    writers = [Process("write", *arguments) for _ in range(INSTANCES)]

    def kill_postgres() -> None:
        postgres.kill()
        postgres.start()

    def kill_writer() -> None:
        victim = writers[number // 3 % INSTANCES]
        victim.kill()
        victim.begin()

    def kill_relay() -> None:
        mover.kill()
        mover.begin()

    victims = {"application": kill_writer, "relay": kill_relay, "postgres": kill_postgres}
    killed: Counter[str] = Counter()
    for number in range(rounds):
        _until_moved(mover, sum(mover.lines) + MOVED)
        victim = list(victims)[number % 3]
        console.print(f"{way}: round {number + 1}, {sum(mover.lines)} moved: {victim} is killed")
        victims[victim]()
        killed[victim] += 1
    _until_moved(mover, sum(mover.lines) + MOVED)
    for writer in writers:
        writer.kill()
    rows = _rows(postgres, application)
    found = _settled(kafka, application, len(rows))
    mover.kill()
    acknowledged = [number for writer in writers for number in writer.lines]
    return verdict(rows, found, acknowledged) | {"kills": dict(killed)}


def verdict(
    rows: dict[int, int], found: list[dict[str, int]], acknowledged: list[int]
) -> dict[str, int]:
    """How rows, events and what was acknowledged compare; all but the first three must be 0."""
    times = Counter(event["id"] for event in found)
    return {
        "rows": len(rows),
        "events": len(found),
        "acknowledged": len(acknowledged),
        "rows_without_event": sum(number not in times for number in rows),
        "events_without_row": sum(number not in rows for number in times),
        "events_more_than_once": sum(count > 1 for count in times.values()),
        "other_amounts": sum(rows.get(each["id"]) != each["amount"] for each in found),
        "acknowledged_without_row": sum(number not in rows for number in acknowledged),
    }


def _until_moved(mover: Process, number: int) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while sum(mover.lines) < number:
        if time.monotonic() > deadline:
            raise SystemExit(f"no progress: {sum(mover.lines)} of {number} events have moved")
        time.sleep(0.02)


def _rows(postgres: RunningEngine, application: str) -> dict[int, int]:
    import psycopg
    from psycopg import sql

    query = sql.SQL("SELECT id, amount FROM {}").format(
        sql.Identifier(f"{application}.{SOURCE}", "paid")
    )
    with psycopg.connect(postgres.address, password=postgres.secret) as connection:
        return dict(connection.execute(query).fetchall())


def _settled(kafka: RunningEngine, application: str, rows: int) -> list[dict[str, int]]:
    """What is in the topic once it has as many events as there are rows, and no more come."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    before = -1
    while True:
        found = list(plain_read(kafka.address, f"{application}.{PAID.name}"))
        if (len(found) >= rows and len(found) == before) or time.monotonic() > deadline:
            return found
        before = len(found)
        time.sleep(1.0)


def commits(events: KafkaEvents, instances: int, seconds: float) -> float:
    """Commits a second of one event each, by so many instances that each do one at a time."""
    done = [0] * instances
    begin, end = threading.Event(), threading.Event()

    def instance(number: int) -> None:
        with store_of(events) as store:
            store.submit(command()).result()
            begin.wait()
            while not end.is_set():
                store.submit(command()).result()
                done[number] += 1

    running = [threading.Thread(target=instance, args=(number,)) for number in range(instances)]
    for each in running:
        each.start()
    began = time.perf_counter()
    begin.set()
    end.wait(seconds)
    end.set()
    for each in running:
        each.join()
    return sum(done) / (time.perf_counter() - began)


@app.default
def main(
    *,
    rounds: NotNegative = 50,
    seconds: float = 2.0,
    repeats: Positive = 5,
    json_out: Path = HERE / "results" / "outbox.json",
) -> int:
    """Kill and count, with the table and with the log; then measure commits.

    Exit 1: rows and events are not one to one.

    Parameters
    ----------
    rounds
        Kills with each way of reading the outbox.
    seconds
        How long commits are counted, each time.
    repeats
        How often; the median counts.
    json_out
        Where the result document goes.
    """
    with (
        tempfile.TemporaryDirectory(prefix="outbox-") as folder,
        start("postgres", Path(folder) / "postgres") as postgres,
        start("kafka", Path(folder) / "kafka") as kafka,
    ):
        os.environ["PGPASSWORD"] = postgres.secret
        under = {
            "versions": {
                "counterfoil": version("counterfoil"),
                "python": platform.python_version(),
            },
            "machine_cores": os.cpu_count(),
            "load_average_before": os.getloadavg()[0],
            "engine": "PostgreSQL, synchronous_commit=on, fsync=on; Kafka, one broker",
        }
        verdicts: dict[str, dict[str, Any]] = {}
        for way in WAYS if rounds else ():
            verdicts[way] = kills(kafka, postgres, way, rounds)
            console.print(f"{way}: {verdicts[way]}")
        engines = (kafka, postgres)
        measured = {number: measure(*engines, number, seconds, repeats) for number in (1, 4, 16)}
    return tell(verdicts, measured, under, json_out)


def measure(
    kafka: RunningEngine, postgres: RunningEngine, instances: int, seconds: float, repeats: int
) -> dict[str, list[float]]:
    """Commits a second with either way, in turns, while a relay moves the events."""
    found: dict[str, list[float]] = {way: [] for way in WAYS}
    for number in range(repeats):
        for way in WAYS if number % 2 == 0 else reversed(WAYS):
            application = f"commits-{way}-{uuid.uuid4().hex[:8]}"
            arguments = (kafka.address, postgres.address, application, way)
            mover = Process("relay", *arguments)
            try:
                events = events_of(*arguments)
                with store_of(events) as store:
                    store.submit(command()).result()
                _until_moved(mover, 1)
                found[way].append(round(commits(events, instances, seconds), 1))
            finally:
                mover.kill()
                Slot(postgres.address, postgres.secret, f"{application}.{SOURCE}").drop()
    return found


def tell(
    verdicts: dict[str, dict[str, Any]],
    measured: dict[int, dict[str, list[float]]],
    under: dict[str, Any],
    json_out: Path,
) -> int:
    """Write the document and print the table."""
    cases: list[dict[str, Any]] = []
    table = Table("instances", "log: commits/s", "table: commits/s", "ratio", box=None)
    for number, rounds in measured.items():
        ours, peer = (statistics.median(rounds[way]) for way in ("log", "table"))
        table.add_row(str(number), f"{ours:,.0f}", f"{peer:,.0f}", f"{ours / peer:.2f}")
        cases.append(
            {
                "name": f"outbox: commits of one event, {number} instances",
                "unit": "commits/s",
                "ours": ours,
                "peers": {"table": peer},
                "ratio": {"table": round(ours / peer, 2)},
                "rounds": rounds,
                "conditions": under,
            }
        )
    console.print(table)
    json_out.parent.mkdir(parents=True, exist_ok=True)
    json_out.write_text(json.dumps({"kills": verdicts, "cases": cases}, indent=2) + "\n")
    return int(any(wrong(each) for each in verdicts.values()))


def wrong(each: dict[str, Any]) -> bool:
    """Whether rows and events are not one to one."""
    differences = list(verdict({}, [], []))[3:]
    return any(each[name] for name in differences) or each["rows"] == 0


if __name__ == "__main__":
    sys.exit(app())
