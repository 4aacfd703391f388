"""The table and the report that the tests share, and a source of rows that is always the same."""

import datetime
import sys
import threading
import time
from pathlib import Path

import msgspec

from counterfoil.engines import server
from counterfoil.engines.spark import delta_jars
from counterfoil.errors import CounterfoilError
from counterfoil.reports import (
    Batch,
    Embedded,
    Engine,
    Lake,
    LakeWriter,
    Report,
    ReportRunner,
    Table,
)
from counterfoil.reports.driver import Driver
from counterfoil.reports.spark import Spark

PARTITIONS = 2
ROWS = 200
"""Of each partition."""


class Sale(msgspec.Struct, frozen=True):
    """A row with a column of each type that a table may have."""

    id: int
    day: str
    buyer: str
    amount: int
    gift: bool
    due: datetime.date


SALES = Table("sales", Sale)
DAILY = Report(
    "daily",
    SALES,
    {
        "totals": """
            SELECT day, count(*) AS sales, sum(amount) AS revenue, count(DISTINCT buyer) AS buyers,
                   count(*) FILTER (WHERE gift) AS gifts, min(due) AS first_due
            FROM sales GROUP BY day""",
        "best": """
            SELECT day, buyer, sum(amount)::BIGINT AS revenue FROM sales GROUP BY day, buyer
            QUALIFY row_number() OVER (PARTITION BY day ORDER BY revenue DESC, buyer) <= 3""",
    },
    title="Sales by day",
    amounts=("revenue",),
)
HEAVY = Report(
    "heavy",
    SALES,
    {
        "buyers": """
            SELECT day, count(DISTINCT buyer) AS buyers, sum(amount) AS revenue
            FROM sales GROUP BY day""",
        "ranks": """
            SELECT day, max(place) AS places FROM (
                SELECT day, rank() OVER (PARTITION BY day ORDER BY buyer, amount) AS place
                FROM sales)
            GROUP BY day""",
    },
    title="Much to compute",
)


def sale(partition: int, offset: int) -> Sale:
    """The row at an offset: equal rows but for the id come often, on purpose."""
    number = partition * 1_000_000 + offset
    day = datetime.date(2026, 1, 1 + number % 5)
    amount = number * 7_919 % 1_000
    return Sale(number, day.isoformat(), f"buyer {number % 7}", amount, number % 3 == 0, day)


def batches(first: int, after: int) -> dict[int, Batch]:
    """The rows of every partition from one offset to before another."""
    return {
        partition: Batch(
            [sale(partition, offset) for offset in range(first, after)], after, start=first
        )
        for partition in range(PARTITIONS)
    }


def ids(lake: Lake) -> list[int]:
    """The ids of all rows that the table has, sorted; read by delta-rs's own engine."""
    import deltalake

    table = lake.open(SALES)
    assert table is not None
    query = deltalake.QueryBuilder().register("sales", table).execute("SELECT id FROM sales")
    return sorted(row for batch in query for row in batch["id"].to_pylist())


def all_ids(after: int = ROWS) -> list[int]:
    """The ids that must be there, each once."""
    return sorted(sale(p, o).id for p in range(PARTITIONS) for o in range(after))


def driver(folder: Path, address: str = "") -> Driver:
    """A Spark driver of this process."""
    server("spark-master").install(print)
    return Driver(address, name="tests", lock=folder / "driver.lock", jars=delta_jars())


def main(kind: str, folder: Path, address: str) -> None:
    """Be the process of a lake and its report: go on where the table says, until all is done."""
    engine: Engine = Embedded() if kind == "embedded" else Spark(driver(folder, address))
    print("started", flush=True)
    lake = Lake(folder / "lake")
    writer = LakeWriter(lake, SALES, engine)
    while True:
        positions = writer.positions("sales", PARTITIONS)
        first = [positions.get(partition, 0) for partition in range(PARTITIONS)]
        waiting = {
            partition: Batch(
                [sale(partition, o) for o in range(start, start + 50)], start + 50, start=start
            )
            for partition, start in enumerate(first)
            if start < ROWS
        }
        if not waiting:
            break
        writer.append(waiting, source="sales", now_us=1_000_000)
        print("appended", flush=True)
    ReportRunner(lake, DAILY, folder / "report", engine).run(2_000_000)


def compute(folder: Path, address: str) -> None:
    """Be the process of the heavy report, and say when the first task of it runs."""
    started = driver(folder, address)
    tracker = started.session.sparkContext.statusTracker()

    def look() -> None:
        while True:
            for number in tracker.getActiveStageIds():
                stage = tracker.getStageInfo(number)
                if stage and stage.numActiveTasks:
                    print("computing", flush=True)
                    return
            time.sleep(0.01)

    threading.Thread(target=look, daemon=True).start()
    ReportRunner(Lake(folder / "lake"), HEAVY, folder / "report", Spark(started)).run(1)


if __name__ == "__main__":
    try:
        if sys.argv[1] == "compute":
            compute(Path(sys.argv[2]), sys.argv[3])
        else:
            main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
    except CounterfoilError as error:
        sys.exit(f"{type(error).__name__}: {error}")
