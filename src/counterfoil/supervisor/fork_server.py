"""The fork server: imports the processes' modules once, then forks processes.

`python -m counterfoil.supervisor.fork_server DESCRIPTOR MODULE …`; `forking.py` is its client.

Importing what a process of a run needs takes half a second of a core, and a run has a dozen
processes: that is most of the cost of a start, and of the time until a dead process is replaced. So
one process imports it once and does nothing else. A forked process then continues as if Python had
been started for it: with its own session, its own output, and `runpy` for its module. It loads the
application after the fork, so a restart runs what is on disk then. The imported modules' pages are
shared.

A fork copies only the calling thread, and a lock held by another thread would stay locked forever.
So no preloaded module may start a thread, which a test checks. The fork server of multiprocessing
gives all processes one environment, but the guard identifies a run's processes by theirs.
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
"""The kernel's limit for a process's name, in bytes."""


def serve(connection: socket.socket, modules: Sequence[str]) -> None:
    """Serve the requests of `connection` and report ended processes, until it is closed."""
    for module in modules:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()  # collections would write to every page, and so unshare it
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
            # The pid can't have been reused: an ended child stays a zombie until `_ends`.
            process = os.pidfd_open(pid)
            socket.send_fds(connection, [msgspec.json.encode(Started(pid))], [process])
            for descriptor in (process, *descriptors):
                os.close(descriptor)


def _told_of_ends() -> int:
    """A descriptor that is readable once a child has ended."""
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
    """Run the requested process to its end."""
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
