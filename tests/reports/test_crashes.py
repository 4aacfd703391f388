"""Processes that die, engines that lose a part: every row once, and the report right."""

import contextlib
import itertools
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import deltalake
import pyarrow
import pytest
from pyarrow import parquet
from sales import DAILY, HEAVY, PARTITIONS, ROWS, SALES, all_ids, batches, ids, sale

from counterfoil.engines import RunningEngine, process_tree
from counterfoil.reports import Embedded, Lake, LakeWriter, ReportRunner, published
from counterfoil.reports.delta import create
from counterfoil.reports.engine import Part

PROCESS = Path(__file__).with_name("sales.py")
PATIENCE = 240.0
pytestmark = pytest.mark.timeout(900)


def start(kind: str, folder: Path, address: str = "") -> subprocess.Popen[str]:
    """The process of a lake, as the supervisor would start it again and again."""
    return subprocess.Popen(
        [sys.executable, str(PROCESS), kind, str(folder), address],
        stdout=subprocess.PIPE,
        stderr=(folder / "errors.log").open("a"),
        text=True,
        env={**os.environ, "COUNTERFOIL_FAULTS": str(folder / "faults")},
    )


def said(process: subprocess.Popen[str], word: str) -> None:
    """Wait until the process has said a word."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() == word:
            return
    pytest.fail(f"it ended with {process.wait()} before it said {word!r}")


def files(folder: Path) -> set[str]:
    return {path.name for path in (folder / "lake" / "sales").glob("*/*.parquet")}


def committed(folder: Path) -> set[str]:
    table = folder / "lake" / "sales"
    if not (table / "_delta_log").exists():
        return set()
    return {Path(uri).name for uri in deltalake.DeltaTable(str(table)).file_uris()}


def readable(path: Path) -> bool:
    with contextlib.suppress(pyarrow.ArrowInvalid):  # the one that was being written
        return parquet.read_metadata(path).num_rows > 0
    return False


def right(folder: Path) -> None:
    """Every row once in the lake, and a report that says the same."""
    assert ids(Lake(folder / "lake")) == all_ids()
    rows = [sale(partition, offset) for partition in range(PARTITIONS) for offset in range(ROWS)]
    days = published(DAILY, folder / "report")["sections"]["totals"]["days"]
    assert sum(day[0][1] for day in days.values()) == len(rows)
    assert sum(day[0][2] for day in days.values()) == sum(row.amount for row in rows)
    whole = folder / "whole"
    ReportRunner(Lake(folder / "lake"), DAILY, whole, Embedded()).run(1)
    assert days == published(DAILY, whole)["sections"]["totals"]["days"]


def test_a_process_that_dies_at_the_worst_moments_appends_each_row_once(
    folder: Path, name: str
) -> None:
    faults = folder / "faults"
    faults.mkdir()
    for point in ("lake.before-commit", "lake.after-commit", "report.before-publish"):
        (faults / point).write_text("kill")
        process = start(name, folder)
        assert process.wait(PATIENCE) == -signal.SIGKILL, point
        assert list(faults.glob(f"{point}.*.taken"))
        if point == "lake.before-commit":
            left = files(folder) - committed(folder)
            whole = [path for path in folder.glob("lake/sales/*/*.parquet") if path.name in left]
            assert any(readable(path) for path in whole), "it died between file and commit"
    assert published(DAILY, folder / "report")["version"] == -1
    assert start(name, folder).wait(PATIENCE) == 0
    right(folder)


def test_what_people_open_is_not_behind_the_document(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = LakeWriter(Lake(folder / "lake"), SALES, Embedded())

    def run() -> None:
        ReportRunner(Lake(folder / "lake"), DAILY, folder / "report", Embedded()).run(1)

    def shown() -> tuple[bytes, ...]:
        names = (*(f"{section}.csv" for section in DAILY.sections), "index.html")
        return tuple((folder / "report" / name).read_bytes() for name in names)

    class Killed(BaseException):
        pass

    def die(_path: Path, _target: Path) -> None:
        raise Killed

    writer.append(batches(0, 10), source="sales", now_us=1)
    run()
    for moment in range(len(DAILY.sections) + 2):
        writer.append(batches(10 + moment, 11 + moment), source="sales", now_us=1)
        calls = itertools.count()
        real = Path.replace

        def replace(path: Path, target: Path, at: int = moment, count=calls, real=real) -> Path:
            return die(path, target) if next(count) == at else real(path, target)  # type: ignore[return-value]

        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(Path, "replace", replace)
            run()
        run()
        after = shown()
        shutil.rmtree(folder / "report")
        run()
        assert shown() == after


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def jvm_of(process: subprocess.Popen[str]) -> int:
    """The JVM that a process has started and waits for."""
    return next(pid for pid in process_tree(process.pid)[1:] if "java" in program(pid))


def program(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().partition("\0")[0]
    except FileNotFoundError:  # ended in the meantime
        return ""


def opened(process: subprocess.Popen[str], path: Path) -> bool:
    """Whether a process below another has a file open."""
    return any(path in open_files(pid) for pid in process_tree(process.pid))


def open_files(pid: int) -> Iterator[Path]:
    """What a process has open; nothing more once it ended."""
    with contextlib.suppress(FileNotFoundError):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed in the meantime
                yield descriptor.readlink()


def test_a_driver_waits_for_the_jvm_of_a_killed_one(folder: Path) -> None:
    first = start("spark", folder)
    said(first, "started")
    until(lambda: bool(files(folder) - committed(folder)))
    jvm = jvm_of(first)
    os.kill(jvm, signal.SIGSTOP)  # in the middle of an append, which it will go on with
    first.kill()
    first.wait()
    second = start("spark", folder)
    until(lambda: opened(second, folder / "driver.lock"))
    assert second.stdout is not None
    ready, _, _ = select.select([second.stdout], [], [], 1.0)
    assert not ready, "it has not started, so it has not read the positions"
    os.kill(jvm, signal.SIGCONT)
    assert second.wait(PATIENCE) == 0
    right(folder)


def test_a_process_whose_jvm_is_killed_ends_and_the_next_goes_on(folder: Path) -> None:
    process = start("spark", folder)
    said(process, "appended")
    os.kill(jvm_of(process), signal.SIGKILL)
    assert process.wait(PATIENCE) == 1
    assert "EngineLost" in (folder / "errors.log").read_text()
    assert start("spark", folder).wait(PATIENCE) == 0
    right(folder)


@pytest.fixture
def cluster(engine: Callable[[str], RunningEngine]) -> RunningEngine:
    return engine("spark")


LARGE = 600_000


def test_a_killed_worker_changes_no_result(folder: Path, cluster: RunningEngine) -> None:
    schema = SALES.schema()
    numbers = pyarrow.array(range(LARGE), pyarrow.int64())
    days = [f"2026-01-{n % 4 + 1:02}" for n in range(LARGE)]
    buyers = [f"buyer {n % 99_991}" for n in range(LARGE)]
    due = pyarrow.array([20_000] * LARGE, pyarrow.int32()).cast(pyarrow.date32())
    columns = [numbers, days, buyers, numbers, [True] * LARGE, due]
    rows = pyarrow.table(dict(zip(schema.names, columns, strict=True)), schema=schema)
    create(folder / "lake" / "sales", schema, "day")
    Embedded().append(folder / "lake" / "sales", {"sales/0": Part(rows, LARGE, start=0)}, 1)
    process = start("compute", folder, cluster.address)
    said(process, "computing")
    killed = [
        worker for worker in cluster.servers[1:] if any(worker.folder.glob("work/app-*/*/stderr"))
    ]
    assert killed, "an executor runs on it"
    for worker in killed:
        worker.kill()
    try:
        assert process.wait(PATIENCE) == 0
    finally:
        for worker in killed:
            worker.start()
    assert "Lost executor" in (folder / "errors.log").read_text()
    found = published(HEAVY, folder / "report")["sections"]
    expected = folder / "expected"
    ReportRunner(Lake(folder / "lake"), HEAVY, expected, Embedded()).run(1)
    assert found == published(HEAVY, expected)["sections"]
    assert len(found["buyers"]["days"]) == 4
