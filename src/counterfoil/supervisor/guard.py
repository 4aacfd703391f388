"""Ends the processes that a run leaves behind: `guard.py RUN`, which outlives the supervisor.

A supervisor can end without cleaning up (SIGKILL, a lost terminal, a bug), and its processes may
not notice: paused, waiting for an engine that is gone, or a JVM in its shutdown hooks whose Python
parent has ended. So nothing relies on their cooperation. The guard reads the lifeline, a pipe that
the kernel closes whenever the supervisor ends. Then it asks all remaining processes of the run to
end, and kills those that don't. After an orderly stop it does the same, and finds none.

A process belongs to a run by its environment, which all descendants inherit; parents change when a
process is orphaned, and sessions and groups can be changed at will. Signals are sent through a
pidfd, opened before the environment is read, so that a reused process id can't be hit.

A process of another user, or one that has overwritten its environment, can't be recognized.
Both apply to PostgreSQL's processes: they end with their postmaster, which the kernel kills with
its parent.

A process in uninterruptible sleep (on a disk or a network file system) takes even SIGKILL only when
it wakes up, which may be never. The guard names it and stops waiting. Such a process executes no
further user code. It keeps its ports and file locks while it exists, so a next run can't get them,
and data stays intact.

The guard is run as a file and needs the standard library alone: it must be running before anything
else starts.
"""

import os
import signal
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

VARIABLE: Final = "COUNTERFOIL_RUN"
"""In the environment of every process of a run; its value is unique to the run."""
GRACE_SECONDS: Final = 6.0
"""For processes to end on SIGTERM: a gateway drains for 5 s."""
KILLED_SECONDS: Final = 30.0
"""For the kernel to end killed processes: it frees gigabytes of a JVM in a second."""
LOOK_SECONDS: Final = 0.1
"""Between two scans of all processes. The run has ended when two in a row find no process: one that
was being started when its parent died has its environment by then."""


def end(
    run: str, grace_seconds: float = GRACE_SECONDS, killed_seconds: float = KILLED_SECONDS
) -> list[int]:
    """Send SIGTERM to every process of `run`, SIGKILL after the grace, and wait for their ends.

    Returns the ids of processes still alive `killed_seconds` after that.
    """
    asked: set[int] = set()
    deadline = time.monotonic() + grace_seconds
    empty = 0
    while empty < 2:
        killing = time.monotonic() > deadline
        given_up = time.monotonic() > deadline + killed_seconds
        living: list[int] = []
        for pid in _processes():
            with _opened(pid) as descriptor:
                if descriptor is None or not _belongs(pid, run):
                    continue
                living.append(pid)
                if killing:
                    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                elif pid not in asked:
                    asked.add(pid)
                    signal.pidfd_send_signal(descriptor, signal.SIGTERM)
                    signal.pidfd_send_signal(descriptor, signal.SIGCONT)  # in case it is paused
        if living and given_up:
            return living
        empty = 0 if living else empty + 1
        time.sleep(LOOK_SECONDS)
    return []


def words(left: list[int]) -> str:
    """The message about processes that did not end, with a hint."""
    named = ", ".join(f"{pid} ({_status(pid)})" for pid in left)
    return (
        f"counterfoil: killed, and not ended yet: {named}\n"
        "  hint: they wait in the kernel, for a disk or a network file system as a rule, and end "
        "when it answers; until then they keep their ports and locks, and a new start may be "
        "refused them\n"
    )


def _status(pid: int) -> str:
    """A process's name and state, from /proc."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines()
    except OSError:
        return "just ended"
    found = dict(line.split(":", 1) for line in lines if ":" in line)
    return f"{found['Name'].strip()}, {found['State'].strip()}"


def _processes() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]


@contextmanager
def _opened(pid: int) -> Generator[int | None, None, None]:
    """A process's pidfd, or None if it has ended."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        yield None
        return
    try:
        yield descriptor
    except ProcessLookupError:
        pass  # it ended before the signal was sent
    finally:
        os.close(descriptor)


def _belongs(pid: int, run: str) -> bool:
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False  # it has ended, or belongs to another user
    return f"{VARIABLE}={run}".encode() in environment.split(b"\0")


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it ends only after the run
    os.read(0, 1)  # the lifeline: returns when its last writer, the supervisor, has ended
    if left := end(sys.argv[1]):
        sys.stderr.write(words(left))
        sys.exit(1)
