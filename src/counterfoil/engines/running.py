"""Starts and controls servers of external engines, for tests, benchmarks and the command line."""

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Final

from counterfoil.engines.errors import DidNotAnswer
from counterfoil.engines.ports import free_port
from counterfoil.engines.server import Server, server, write_private

ENGINES: Final = MappingProxyType(
    {
        "redis": ("redis",),
        "postgres": ("postgres",),
        "kafka": ("kafka",),
        "secured-kafka": ("secured-kafka",),
        "etcd": ("etcd",),
        "registry": ("registry",),
        "spark": ("spark-master", "spark-worker", "spark-worker"),
    }
)
"""The servers of each engine; the first one's address is the engine's."""
STOP_SECONDS: Final = 15.0
PAUSE_SECONDS: Final = 10.0
"""For all threads to stop after SIGSTOP, even if they are in the kernel or wait for a core."""


class RunningServer:
    """One server's process; folder and port stay the same across restarts."""

    def __init__(self, kind: str, folder: Path, credential_file: Path, target: str) -> None:
        self.server: Server = server(kind)
        self.folder = folder
        self.port = free_port()
        self._arguments = [kind, str(folder), str(self.port), str(credential_file), target]
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def pid(self) -> int:
        """The server's process id."""
        assert self._process is not None, "it was started"
        return self._process.pid

    def start(self) -> None:
        """Start it, and wait until it is ready.

        Raises:
            DidNotAnswer: it ended, or took too long; names the file with its output.
        """
        log = self.folder / "output.log"
        reading, notify = os.pipe()
        try:
            with log.open("ab") as output:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "counterfoil.engines", *self._arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                    pass_fds=(notify,),
                    env={**os.environ, "COUNTERFOIL_NOTIFY": str(notify)},
                )
        finally:
            os.close(notify)
        # The pipe is closed without data if the server and its watcher end.
        ready, _, _ = select.select([reading], [], [], self.server.start_seconds)
        answered = bool(ready) and bool(os.read(reading, 1024))
        os.close(reading)
        if not answered:
            self.kill()
            last = "\n".join(log.read_text(errors="replace").splitlines()[-5:])
            raise DidNotAnswer(f"{self.server.kind} did not start\n{last}", hint=f"see {log}")

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the server and all its descendants."""
        if self._process is None or self._process.poll() is not None:
            return
        for pid in process_tree(self._process.pid):
            send_signal(pid, number)

    def has_stopped(self) -> bool:
        """Whether all its threads have stopped, which takes a moment after the signal."""
        if self._process is None:
            return True
        tree = process_tree(self._process.pid)
        stats = [stat for pid in tree for stat in Path(f"/proc/{pid}/task").glob("*/stat")]
        return all(state_of(stat) in "TtZX" for stat in stats)

    def kill(self) -> None:
        """Send SIGKILL, as in a crash of the machine, except that disk caches survive."""
        self.signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()

    def stop(self) -> None:
        """Stop it gracefully, or with SIGKILL if that takes too long."""
        if self._process is None or self._process.poll() is not None:
            return
        self.signal(signal.SIGCONT)
        self._process.send_signal(self.server.stop_signal)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()


class RunningEngine:
    """An engine: a server, or a master with its workers. A context manager that stops it."""

    def __init__(self, name: str, folder: Path, secret: str) -> None:
        kinds = ENGINES[name]
        folder.mkdir(parents=True, exist_ok=True)
        credential = write_private(folder / "credential", secret)
        self.name = name
        self.secret = secret
        self.servers: list[RunningServer] = []
        for number, kind in enumerate(kinds):
            target = self.address if self.servers else ""
            place = folder if len(kinds) == 1 else folder / f"{kind}-{number}"
            self.servers.append(RunningServer(kind, place / "server", credential, target))

    @property
    def address(self) -> str:
        """The address for clients."""
        return self.servers[0].server.address(self.servers[0].port)

    def start(self) -> None:
        """Start it, with the data and the ports that it had before.

        Raises:
            DidNotAnswer: a server ended, or took too long.
        """
        for each in self.servers:
            each.start()

    def stop(self) -> None:
        """Stop it gracefully."""
        for each in reversed(self.servers):
            each.stop()

    def kill(self) -> None:
        """Send SIGKILL to all its processes."""
        for each in reversed(self.servers):
            each.kill()

    def pause(self) -> None:
        """Send SIGSTOP to all its processes; returns when they have all stopped."""
        for each in self.servers:
            each.signal(signal.SIGSTOP)
        deadline = time.monotonic() + PAUSE_SECONDS
        while not all(each.has_stopped() for each in self.servers):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.name} has not stopped {PAUSE_SECONDS} s after SIGSTOP")
            time.sleep(0.001)

    def resume(self) -> None:
        """Send SIGCONT to all its processes."""
        for each in self.servers:
            each.signal(signal.SIGCONT)

    def __enter__(self) -> "RunningEngine":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def start(
    name: str,
    folder: Path,
    *,
    credential: str = "for-this-machine-alone",
    tell: Callable[[str], None] = lambda _: None,
) -> RunningEngine:
    """Install what is missing, start an engine with its files in `folder`, wait until it is ready.

    Raises:
        NotInstalled: a program is missing and can't be installed.
        DidNotAnswer: it did not start.
        KeyError: there is no such engine.
    """
    for kind in dict.fromkeys(ENGINES[name]):
        server(kind).install(tell)
    engine = RunningEngine(name, folder.resolve(), credential)
    try:
        engine.start()
    except BaseException:
        engine.kill()
        raise
    return engine


def state_of(stat: Path) -> str:
    """The kernel's state letter of a process or thread, from its `stat` in /proc."""
    try:
        return stat.read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"  # it has just ended


def process_tree(pid: int) -> list[int]:
    """A process and all its descendants, parents first."""
    found = [pid]
    for parent in found:
        try:
            tasks = list(Path(f"/proc/{parent}/task").iterdir())
        except OSError:
            continue  # the process has just ended
        for task in tasks:
            try:
                children = (task / "children").read_text()
            except OSError:
                continue  # the thread has just ended
            found += [int(child) for child in children.split()]
    return found


def send_signal(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process that may have ended."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
