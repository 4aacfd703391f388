"""Loading an aggregate, by the length of its history: `python bench/sourcing.py`.

The claim: with snapshots the time is flat. So the same aggregate is loaded after a thousand events
and after many more, in one run, by snapshot and by full replay; the histories are written as the
product writes them, but many events to a statement. The longest one must take no longer than the
shortest by more than what one machine differs from itself.
"""

import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import cyclopts
import msgspec
from rich.console import Console
from rich.table import Table

from counterfoil.events import AGGREGATE_SCHEMA, Aggregate
from counterfoil.events.database import Cursor
from counterfoil.events.sqlite import SqliteDatabase

HERE: Final = Path(__file__).parent
SHORTEST: Final = 1_000
STEP: Final = 10
AT_ONCE: Final = 50_000
"""Events of one commit while a history is written."""
TAIL: Final = 99
"""Events after the snapshot: the most there are before the next one."""
FLAT: Final = 1.5
console = Console()


class Account(msgspec.Struct, frozen=True):
    balance: int = 0
    entries: int = 0


class Deposited(msgspec.Struct, frozen=True):
    amount: int


accounts = Aggregate("account", Account)


@accounts.when()
def deposited(account: Account, event: Deposited) -> Account:
    return Account(account.balance + event.amount, account.entries + 1)


class Session:
    """A transaction's place."""

    def __init__(self, database: SqliteDatabase) -> None:
        self.now_us = 1
        self._database = database

    def execute(self, sql: str, parameters: Sequence[object] = ()) -> Cursor:
        return self._database.execute(sql, parameters)


def rows(identity: str, start: int, end: int) -> Iterator[tuple[object, ...]]:
    for number in range(start, end):
        content = msgspec.json.encode(Deposited(number % 1_000))
        yield ("account", identity, number, "Deposited", 1, content, 1)


def write(database: SqliteDatabase, identity: str, length: int) -> None:
    """A history of `length` events whose last `TAIL` are not in the snapshot."""
    session = Session(database)
    first = length - TAIL
    for start in range(1, first, AT_ONCE):
        end = min(start + AT_ONCE, first)
        with database.transaction():
            database.executemany(
                "INSERT INTO stream_events VALUES (?, ?, ?, ?, ?, ?, ?)", rows(identity, start, end)
            )
    database.execute("INSERT INTO stream_heads VALUES (?, ?, ?)", ("account", identity, first - 1))
    with database.transaction():
        replayed = accounts.load(session, identity)
        current = accounts.append(session, replayed, [Deposited(1)])
        assert current.snapshot_version == first
        accounts.append(session, current, [Deposited(1)] * TAIL)


def timed(database: SqliteDatabase, identity: str, length: int, *, replay: bool) -> float:
    """Microseconds of one load, from a connection that has read nothing yet."""
    began = time.perf_counter()
    session = Session(database)
    current = accounts.verify(session, identity) if replay else accounts.load(session, identity)
    took = (time.perf_counter() - began) * 1e6
    assert current.version == length
    assert current.state.entries == length
    return took


def main(
    *,
    events: int = 1_000_000,
    rounds: int = 31,
    json_out: Path = HERE / "results" / "sourcing.json",
) -> int:
    """Load aggregates of 1,000 events and of ten times more each, up to `events`.

    Exit 1: loading by snapshot is not flat.

    Parameters
    ----------
    events
        The longest history; 10,000,000 take some minutes and 700 MB.
    rounds
        How often each is loaded by snapshot; the median counts.
    json_out
        Where the result document goes.
    """
    lengths = [SHORTEST]
    while lengths[-1] * STEP <= events:
        lengths.append(lengths[-1] * STEP)
    measured: dict[int, list[float]] = {length: [] for length in lengths}
    full: dict[int, float] = {}
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        path = Path(folder) / "bank.db"
        with closing(SqliteDatabase(path)) as database:
            database.create([AGGREGATE_SCHEMA])
            for length in lengths:
                with console.status(f"a history of {length:,} events"):
                    write(database, str(length), length)
        for _ in range(rounds):
            for length in lengths:
                with closing(SqliteDatabase(path)) as database:
                    measured[length].append(timed(database, str(length), length, replay=False))
        for length in lengths:
            with closing(SqliteDatabase(path)) as database:
                full[length] = timed(database, str(length), length, replay=True)
    return tell(measured, full, rounds, json_out)


def tell(
    measured: dict[int, list[float]], full: dict[int, float], rounds: int, json_out: Path
) -> int:
    """Write the document and print the table."""
    under = {
        "versions": {"counterfoil": version("counterfoil"), "python": platform.python_version()},
        "machine_cores": os.cpu_count(),
        "load_average_before": os.getloadavg()[0],
        "engine": "SQLite, a new connection for each load",
        "snapshot_every": 100,
        "events_after_the_snapshot": TAIL,
        "rounds": rounds,
    }
    shortest = statistics.median(measured[SHORTEST])
    cases: list[dict[str, Any]] = []
    table = Table("events", "load us", "full replay us", "load / shortest", box=None)
    for length, raw in measured.items():
        ours = statistics.median(raw)
        ratio = ours / shortest
        table.add_row(f"{length:,}", f"{ours:,.0f}", f"{full[length]:,.0f}", f"{ratio:.2f}")
        cases.append(
            {
                "name": f"sourcing: load after {length:,} events",
                "unit": "us",
                "ours": round(ours, 1),
                "peers": {
                    f"after {SHORTEST:,} events": round(shortest, 1),
                    "full replay": round(full[length], 1),
                },
                "ratio": {
                    f"after {SHORTEST:,} events": round(ratio, 3),
                    "full replay": round(ours / full[length], 5),
                },
                "target": {"peer": f"after {SHORTEST:,} events", "ratio_at_most": FLAT},
                "rounds": [round(each, 1) for each in raw],
                "conditions": under,
            }
        )
    console.print(table)
    json_out.parent.mkdir(parents=True, exist_ok=True)
    json_out.write_text(json.dumps({"cases": cases}, indent=2) + "\n")
    return 0 if all(case["ours"] <= shortest * FLAT for case in cases) else 1


if __name__ == "__main__":
    sys.exit(cyclopts.run(main))
