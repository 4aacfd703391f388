"""The fork server: imports the processes' modules once, then forks them.

`python -m counterfoil.supervisor.fork_server DESCRIPTOR MODULE …`, the far end of `forking.py`.

To import all that a process of a run needs takes half a second of a core, and a run has a dozen of
them: that is most of what a start costs, and of the time in which a process that died is missing.
So it is done once, here, by a process that does nothing else. What comes of a fork goes on as if
Python had been started for it: its own session, its own output, `runpy` for its module. The
application is loaded after the fork, so that a restart runs what is on disk then. The pages of what
was imported are shared.

A fork copies the one thread that asks for it, and whatever another one had locked stays locked for
ever; so nothing may be imported here that starts one, which a test sees to. The server of
the same kind that multiprocessing has gives every process one environment, and the guard knows the
processes of a run by theirs.
"""

import gc
import importlib
import os
import runpy
import select
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from counterfoil.supervisor.forking import MESSAGE_LIMIT, Ended, Request, Started

NAME_LIMIT: Final = 15
"""What the kernel keeps of a process's name, in bytes."""


def serve(connection: socket.socket, modules: Sequence[str]) -> None:
    """Start what `connection` asks for, and tell it of ends, until it is closed."""
    for module in modules:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()  # a collection would write to every page, and so copy it
    ended = _told_of_ends()
    while True:
        ready, _, _ = select.select([connection, ended], [], [])
        if ended in ready:
            os.read(ended, MESSAGE_LIMIT)
            for report in _ends():
                connection.send(msgspec.json.encode(report))
        if connection in ready:
            message, descriptors, _, _ = socket.recv_fds(connection, MESSAGE_LIMIT, 8)
            if not message:
                return
            request = msgspec.json.decode(message, type=Request)
            pid = os.fork()
            if pid == 0:
                connection.close()
                _become(request, descriptors)
            # It can't be somebody else by now: who ended is kept until `_ends` asks.
            process = os.pidfd_open(pid)
            socket.send_fds(connection, [msgspec.json.encode(Started(pid))], [process])
            for descriptor in (process, *descriptors):
                os.close(descriptor)


def _told_of_ends() -> int:
    """A descriptor that can be read when a process has ended."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    return reading


def _ends() -> list[Ended]:
    found: list[Ended] = []
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if pid == 0:
            return found
        found.append(Ended(pid, os.waitstatus_to_exitcode(status)))


def _become(request: Request, descriptors: list[int]) -> None:
    """Be the process that was asked for, to its end."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()  # Ctrl-C reaches the supervisor alone
    Path("/proc/self/comm").write_bytes(request.name.encode()[:NAME_LIMIT])
    output, *passed = descriptors
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    os.environ.update(zip(request.variables, map(str, passed), strict=True))
    sys.argv = [request.module, *request.arguments]
    runpy.run_module(request.module, run_name="__main__", alter_sys=True)
    sys.exit()


if __name__ == "__main__":
    number, *preloaded = sys.argv[1:]
    with socket.socket(fileno=int(number)) as supervisor:
        serve(supervisor, preloaded)
