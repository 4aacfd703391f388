"""An orderly stop ends, even where a process does not."""

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from counterfoil.supervisor import supervisor as stopping
from counterfoil.supervisor.plan import ProcessPlan
from counterfoil.supervisor.supervisor import Child, Supervisor


class Stuck:
    """A process as it is seen while it waits in the kernel: signals are taken, and nothing ends."""

    returncode = None

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.heard: list[int] = []

    def send_signal(self, number: int) -> None:
        self.heard.append(number)

    def kill(self) -> None:
        self.heard.append(signal.SIGKILL)

    async def wait(self) -> None:
        await asyncio.Event().wait()


@pytest.fixture
def stuck() -> Iterator[Stuck]:
    command = [sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)"]
    with subprocess.Popen(command) as process:
        yield Stuck(process.pid)
        process.kill()


def test_a_process_that_does_not_end_though_killed_is_left_to_the_guard(
    stuck: Stuck, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stopping, "STOP_SECONDS", 0.1)
    monkeypatch.setattr(stopping, "KILLED_SECONDS", 0.2)

    async def stop() -> None:
        supervisor = Supervisor(tmp_path, tmp_path)
        child = Child(ProcessPlan("lake", "lake"), process=cast("Any", stuck))
        supervisor.children = [child]
        await supervisor._end(child)
        waiting = asyncio.create_task(stuck.wait())
        await supervisor._end_keepers([waiting, asyncio.create_task(asyncio.sleep(0))])
        assert waiting.cancelled()

    begun = time.monotonic()
    asyncio.run(asyncio.wait_for(stop(), 30))
    assert stuck.heard == [signal.SIGTERM, signal.SIGKILL]
    assert time.monotonic() - begun < 20
