"""Client of the fork server (`fork_server.py`), for the supervisor's event loop.

If the server ends or is killed, its processes go on and are watched through their pidfds; the next
request starts another server.
"""

import asyncio
import os
import signal
import socket
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

import msgspec

AGAIN_SECONDS: Final = 1.0
"""Between two attempts to start a server."""
STOP_SECONDS: Final = 2.0
MESSAGE_LIMIT: Final = 65_536
"""In bytes, of a request or a report: they contain a module, paths and numbers."""


class Request(msgspec.Struct, frozen=True):
    """A process to start, sent with descriptors: its output, then those for `variables`."""

    name: str
    module: str
    arguments: list[str]
    variables: list[str]
    """Environment variables, each set to the number of one of the descriptors."""


class Started(msgspec.Struct, frozen=True, tag=True):
    """The answer to a request, sent with the process's pidfd."""

    pid: int


class Ended(msgspec.Struct, frozen=True, tag=True):
    """An ended process; `code` is negative if a signal ended it."""

    pid: int
    code: int


Report: TypeAlias = Started | Ended


@dataclass(slots=True)
class Forked:
    """A process that a fork server started."""

    pid: int
    descriptor: int
    """The pidfd: unlike the pid, it can't be reused once the process has ended."""
    returncode: int | None = None
    """As for asyncio's processes; `UNKNOWN` if the server ended first."""
    _ended: asyncio.Event = field(default_factory=asyncio.Event)

    UNKNOWN = 255

    async def wait(self) -> int:
        """Wait until it ends; returns its code, negative if a signal ended it."""
        await self._ended.wait()
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.returncode is None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.descriptor, number)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def ended(self, code: int) -> None:
        """Record its end."""
        if self.returncode is None:
            self.returncode = code
            os.close(self.descriptor)
            self._ended.set()


class ForkServer:
    """Starts processes with one environment; the server's own output goes to `output`."""

    def __init__(self, modules: Sequence[str], environment: Mapping[str, str], output: Path):
        self._modules = modules
        self._environment = environment
        self._output = output
        self._loop = asyncio.get_running_loop()
        self._lock = asyncio.Lock()
        self._connection: _Connection | None = None

    async def fork(
        self,
        name: str,
        module: str,
        arguments: Sequence[str],
        output: int,
        descriptors: Mapping[str, int],
    ) -> Forked:
        """Run `module` as `python -m` does.

        `descriptors` are inherited; the environment variables of the same names have their numbers.
        """
        request = Request(name, module, list(arguments), list(descriptors))
        while True:
            try:
                connection = await self._connected()
                return await connection.ask(request, [output, *descriptors.values()])
            except ConnectionError:
                await asyncio.sleep(AGAIN_SECONDS)

    async def _connected(self) -> "_Connection":
        async with self._lock:
            if self._connection is None or self._connection.lost:
                self._connection = await self._start()
            return self._connection

    async def _start(self) -> "_Connection":
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, self._output.open("ab") as output:
            module = [sys.executable, "-m", "counterfoil.supervisor.fork_server"]
            process = await asyncio.create_subprocess_exec(
                *(*module, str(theirs.fileno()), *self._modules),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                pass_fds=(theirs.fileno(),),
                env=dict(self._environment),
            )
        return _Connection(self._loop, ours, process)

    async def close(self) -> None:
        """End the server; its processes have to be ended separately."""
        if self._connection is not None:
            await self._connection.close()


class _Connection:
    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        server: socket.socket,
        process: asyncio.subprocess.Process,
    ) -> None:
        self.lost = False
        self._loop = loop
        self._server = server
        self._process = process
        self._asked: deque[asyncio.Future[Forked]] = deque()
        self._living: dict[int, Forked] = {}
        loop.add_reader(server, self._told)

    async def ask(self, request: Request, descriptors: list[int]) -> Forked:
        started: asyncio.Future[Forked] = self._loop.create_future()
        socket.send_fds(self._server, [msgspec.json.encode(request)], descriptors)
        self._asked.append(started)
        return await asyncio.shield(started)

    def _told(self) -> None:
        try:
            message, descriptors, _, _ = socket.recv_fds(self._server, MESSAGE_LIMIT, 1)
        except ConnectionError:
            message, descriptors = b"", []
        if not message:
            self._lose()
            return
        report: Report = msgspec.json.decode(message, type=Report)
        match report:
            case Started(pid):
                (descriptor,) = descriptors
                self._living[pid] = Forked(pid, descriptor)
                self._asked.popleft().set_result(self._living[pid])
            case Ended(pid, code):
                self._living.pop(pid).ended(code)

    def _lose(self) -> None:
        """Continue without the server: processes' ends are seen through their pidfds."""
        self.lost = True
        self._loop.remove_reader(self._server)
        self._server.close()
        for started in self._asked:
            started.set_exception(ConnectionResetError("the fork server ended"))
        for forked in self._living.values():
            self._loop.add_reader(forked.descriptor, self._gone, forked)

    def _gone(self, forked: Forked) -> None:
        self._loop.remove_reader(forked.descriptor)
        forked.ended(Forked.UNKNOWN)

    async def close(self) -> None:
        if not self.lost:
            self._lose()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), STOP_SECONDS)
            return
        self._process.kill()
        await self._process.wait()
