"""What comes of a fork is a process like any other, whatever becomes of the server it came from."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from counterfoil.engines import process_tree
from counterfoil.supervisor.forking import Forked, ForkServer
from counterfoil.supervisor.supervisor import PRELOADED

TELLS = """
import json, os, sys, threading
with os.fdopen(int(os.environ["TOLD"]), "w") as told:
    json.dump({
        "arguments": sys.argv[1:],
        "main": __name__,
        "run": os.environ["RUN"],
        "session": os.getsid(0) == os.getpid(),
        "threads": threading.active_count(),
    }, told)
print("words")
sys.exit(7)
"""
WAITS = """
import os, time
os.write(int(os.environ["TOLD"]), b"ready")
time.sleep(600)
"""


class Nursery:
    """A fork server, and what its processes wrote."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "tells.py").write_text(TELLS)
        (folder / "waits.py").write_text(WAITS)
        environment = {**os.environ, "PYTHONPATH": str(folder), "RUN": "4711"}
        self.servers = ForkServer(["json"], environment, folder / "log")

    async def fork(self, module: str) -> tuple[Forked, str]:
        """A process, and the first that it tells."""
        reading, writing = os.pipe()
        with (self.folder / "output").open("ab") as output:
            forked = await self.servers.fork(
                "a-name-of-many-words", module, ["one", "two"], output.fileno(), {"TOLD": writing}
            )
        os.close(writing)
        told = await asyncio.to_thread(os.read, reading, 4096)
        os.close(reading)
        return forked, told.decode()

    def server(self) -> int:
        (server,) = (
            pid
            for pid in process_tree(os.getpid())
            if "fork_server" in Path(f"/proc/{pid}/cmdline").read_text()
            and os.getsid(pid) == pid
            and name(pid) != "a-name-of-many-"
        )
        return server


def name(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().rstrip("\n")


def run(folder: Path, scenario: Callable[[Nursery], Coroutine[Any, Any, None]]) -> None:
    @asynccontextmanager
    async def opened() -> AsyncGenerator[Nursery, None]:
        nursery = Nursery(folder)
        try:
            yield nursery
        finally:
            await nursery.servers.close()

    async def main() -> None:
        async with asyncio.timeout(60), opened() as nursery:
            await scenario(nursery)

    asyncio.run(main())


def test_it_is_what_python_would_have_started(tmp_path: Path) -> None:
    async def scenario(nursery: Nursery) -> None:
        forked, told = await nursery.fork("tells")
        assert json.loads(told) == {
            "arguments": ["one", "two"],
            "main": "__main__",
            "run": "4711",
            "session": True,
            "threads": 1,
        }
        assert await forked.wait() == 7
        forked.kill()  # of nobody
        assert (tmp_path / "output").read_text() == "words\n"

    run(tmp_path, scenario)


def test_it_bears_its_name_and_ends_by_a_signal(tmp_path: Path) -> None:
    async def scenario(nursery: Nursery) -> None:
        forked, told = await nursery.fork("waits")
        assert told == "ready"
        assert name(forked.pid) == "a-name-of-many-"
        forked.send_signal(signal.SIGTERM)
        assert await forked.wait() == -signal.SIGTERM

    run(tmp_path, scenario)


def test_processes_outlive_a_server_that_is_killed_and_the_next_has_another(tmp_path: Path) -> None:
    async def scenario(nursery: Nursery) -> None:
        first, _ = await nursery.fork("waits")
        killed = nursery.server()
        os.kill(killed, signal.SIGKILL)
        second, told = await nursery.fork("waits")
        assert told == "ready"
        assert nursery.server() != killed
        assert first.returncode is None
        for forked, code in ((first, Forked.UNKNOWN), (second, -signal.SIGKILL)):
            forked.kill()
            assert await forked.wait() == code

    run(tmp_path, scenario)


def test_many_at_once_are_each_told_of_their_own_end(tmp_path: Path) -> None:
    async def scenario(nursery: Nursery) -> None:
        found = await asyncio.gather(*(nursery.fork("waits") for _ in range(20)))
        for forked, _ in found[::2]:
            forked.kill()
        assert {await forked.wait() for forked, _ in found[::2]} == {-signal.SIGKILL}
        assert all(forked.returncode is None for forked, _ in found[1::2])
        for forked, _ in found[1::2]:
            forked.send_signal(signal.SIGTERM)
            assert await forked.wait() == -signal.SIGTERM

    run(tmp_path, scenario)


def test_nothing_that_is_imported_before_starts_a_thread() -> None:
    imports = "".join(f"import {module}\n" for module in PRELOADED)
    threads = 'print(len(os.listdir("/proc/self/task")))'
    command = [sys.executable, "-c", f"import os\n{imports}{threads}"]
    assert subprocess.run(command, check=True, capture_output=True).stdout == b"1\n"
