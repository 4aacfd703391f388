"""Whatever way a run ends, nothing that it started is left behind."""

import asyncio
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import deltalake
import msgspec
import pyarrow
import pytest

from counterfoil.application import StateFolder
from counterfoil.cli.scaffold import write_application
from counterfoil.engines import process_tree
from counterfoil.reports import UnknownFeature
from counterfoil.supervisor import Child, Supervisor

COUNTERFOIL = str(Path(sys.executable).with_name("counterfoil"))
SHOP = Path(__file__).parents[2] / "examples" / "shop"
END_SECONDS = 30.0
"""A few seconds where nothing else runs; no test should fail on a busy machine."""


@pytest.fixture(scope="module")
def wallet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small application, whose start is short."""
    folder = tmp_path_factory.mktemp("wallet") / "wallet"
    write_application(folder)
    return folder


class Run:
    """A command that runs an application with its state in `state`."""

    def __init__(self, state: Path, *command: str | Path) -> None:
        self.state = StateFolder(state)
        line = [COUNTERFOIL, *map(str, command), "--state", str(state)]
        self.process = subprocess.Popen(
            line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )

    def states(self) -> dict[str, str]:
        """The state of each process, as the supervisor last said."""
        if not self.state.run.exists():
            return {}
        document = msgspec.json.decode(self.state.run.read_bytes())
        return {each["name"]: each["state"] for each in document["processes"]}

    def wait_until_ready(self, *names: str) -> None:
        """Wait until the processes of these names, or all of them, are ready."""
        while True:
            assert self.process.poll() is None, "it runs until it is told to stop"
            states = self.states()
            if states and all(states[name] == "ready" for name in names or states):
                return
            time.sleep(0.05)

    def everything(self) -> list[int]:
        """Descriptors of all that it has started, directly or not; not of itself."""
        opened: list[int] = []
        for pid in process_tree(self.process.pid)[1:]:
            with suppress(ProcessLookupError):  # it has just ended
                opened.append(os.pidfd_open(pid))
        return opened


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """A process that nobody may touch."""
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process
        assert process.poll() is None
        process.kill()


def machines(run: Run) -> list[int]:
    """The virtual machines of Java that a run has."""
    found: list[int] = []
    for pid in process_tree(run.process.pid):
        with suppress(FileNotFoundError):
            if Path(f"/proc/{pid}/comm").read_text().strip() == "java":
                found.append(pid)
    return found


def has_ended(descriptor: int) -> bool:
    return bool(select.select([descriptor], [], [], 0)[0])


def assert_all_end(descriptors: list[int]) -> None:
    deadline = time.monotonic() + END_SECONDS
    for descriptor in descriptors:
        left = max(0.0, deadline - time.monotonic())
        assert select.select([descriptor], [], [], left)[0], "a process was left behind"
        os.close(descriptor)


def pause_one(run: Run) -> None:
    """Leave one of its processes unable to hear that its time has come."""
    document = msgspec.json.decode(run.state.run.read_bytes())
    os.kill(document["processes"][-1]["pid"], signal.SIGSTOP)


@pytest.mark.parametrize(("number", "ready"), [(signal.SIGINT, ""), (signal.SIGTERM, "issuer")])
@pytest.mark.usefixtures("bystander")
def test_nothing_is_left_of_a_run_that_is_told_to_end(
    wallet: Path, tmp_path: Path, number: signal.Signals, ready: str
) -> None:
    run = Run(tmp_path / "state", "up", wallet, "--free-ports")
    run.wait_until_ready(*ready.split())
    started = run.everything()
    if not ready:
        assert len(started) > len(run.states()), "the processes, and their guard"
        pause_one(run)
    run.process.send_signal(number)
    assert run.process.wait(END_SECONDS) == 0
    assert_all_end(started)


@pytest.mark.usefixtures("bystander")
def test_nothing_is_left_of_a_killed_run_when_it_is_started_again_at_once(
    wallet: Path, tmp_path: Path
) -> None:
    first = Run(tmp_path / "state", "up", wallet, "--free-ports")
    first.wait_until_ready()
    started = first.everything()
    pause_one(first)
    first.process.kill()
    first.process.wait()
    begun: list[bool] = []

    def note(_: Sequence[Child]) -> None:
        begun.append(all(map(has_ended, started)))
        supervisor.stop()

    supervisor = Supervisor(wallet, tmp_path / "state", free_ports=True, on_change=note)
    asyncio.run(supervisor.run())
    assert begun[0], "two never work in one folder"


def test_nothing_is_left_of_a_start_that_failed(wallet: Path, tmp_path: Path) -> None:
    schema = pyarrow.schema([("id", pyarrow.int64()), ("day", pyarrow.string())])
    deltalake.DeltaTable.create(
        str(tmp_path / "state" / "lake" / "transfers"),
        schema,
        partition_by=["day"],
        configuration={"delta.enableDeletionVectors": "true"},
    )
    started: dict[int, int] = {}

    def note(children: Sequence[Child]) -> None:
        for pid in (child.pid for child in children):
            if pid is not None and pid not in started:
                started[pid] = os.pidfd_open(pid)

    supervisor = Supervisor(wallet, tmp_path / "state", free_ports=True, on_change=note)
    with pytest.raises(UnknownFeature):
        asyncio.run(supervisor.run())
    assert started, "it was refused after some had started"
    assert all(map(has_ended, started.values()))


def test_a_proof_that_is_told_to_end_cleans_up(wallet: Path, tmp_path: Path) -> None:
    run = Run(tmp_path / "state", "prove", wallet, "--purchases", "100000")
    run.wait_until_ready("gateway")
    started = run.everything()
    run.process.send_signal(signal.SIGTERM)
    assert run.process.wait(END_SECONDS) == 128 + signal.SIGTERM
    assert_all_end(started)
    assert set(run.states().values()) == {"stopped"}, "in order"


@pytest.mark.usefixtures("bystander")
def test_no_spark_is_left_of_a_run_that_is_killed(wallet: Path, tmp_path: Path) -> None:
    run = Run(tmp_path / "state", "up", wallet, "--free-ports", "--engines", "reports=spark")
    run.wait_until_ready("spark-master", "spark-worker-1", "spark-worker-2")
    # Its servers, and a driver for each of lake and reports: none of which hears of anything then.
    while len(machines(run)) < 3 + 2:
        assert run.process.poll() is None
        time.sleep(0.05)
    started = run.everything()
    run.process.kill()
    run.process.wait()
    assert_all_end(started)
