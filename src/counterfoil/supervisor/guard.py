"""Ends whatever a run leaves behind: `guard.py RUN`, a process that outlives its supervisor.

A supervisor can end without a word (SIGKILL, a lost terminal, a fault of its own), and what it
started can be deaf at that moment: paused, waiting for an engine that is gone, or a JVM in its
shutdown hooks whose Python has long ended. So nobody is relied on to end by himself. The guard
reads the lifeline, whose end the kernel tells of whatever happened; then it asks everything that
is left of the run to end, and ends by force what has not. An orderly stop goes the same way, where
the guard finds nobody.

Who belongs to a run is told by the environment, which everything that is started inherits: parents
change when a process is left alone, sessions and groups when it wants to. A signal goes to a
process by its descriptor, opened before its environment was read, so that a number that was given
to somebody else in between can't be meant.

A process that belongs to another user, or that wrote over its environment, can't be known here.
PostgreSQL's do both: they end with their postmaster, which the kernel kills with its starter.

A process that waits in the kernel for what does not come (a disk, a network file system) takes
even SIGKILL only when it wakes, which may be never. It is named, and no longer waited for: it runs
no further instruction of its own, and keeps its ports and its locks on files for as long as it is
there, so that a next run is refused them and not torn.

It is run as a file, with the standard library alone: it has to be there before anything else.
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
"""What every process of a run has in its environment: a name that no other run has."""
GRACE_SECONDS: Final = 6.0
"""For who hears it: a gateway drains for 5 s."""
KILLED_SECONDS: Final = 30.0
"""For the kernel to end who was killed: it frees gigabytes of a JVM in a second."""
LOOK_SECONDS: Final = 0.1
"""Between two looks at all processes. Nobody is left when two in a row find nobody: a process that
was being started as its starter died has its environment by then."""


def end(
    run: str, grace_seconds: float = GRACE_SECONDS, killed_seconds: float = KILLED_SECONDS
) -> list[int]:
    """Ask every process of `run` to end, kill those that still live after the grace, and wait.

    Returns the process ids of those that had not ended `killed_seconds` after that.
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
                    signal.pidfd_send_signal(descriptor, signal.SIGCONT)  # if paused, it is deaf
        if living and given_up:
            return living
        empty = 0 if living else empty + 1
        time.sleep(LOOK_SECONDS)
    return []


def words(left: list[int]) -> str:
    """What to tell of processes that did not end, and what to do about them."""
    named = ", ".join(f"{pid} ({_status(pid)})" for pid in left)
    return (
        f"counterfoil: killed, and not ended yet: {named}\n"
        "  hint: they wait in the kernel, for a disk or a network file system as a rule, and end "
        "when it answers; until then they keep their ports and locks, and a new start may be "
        "refused them\n"
    )


def _status(pid: int) -> str:
    """A process's name and state, in the kernel's words."""
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
    """A descriptor of a process, or None if it has ended."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        yield None
        return
    try:
        yield descriptor
    except ProcessLookupError:
        pass  # it ended between the look and the signal
    finally:
        os.close(descriptor)


def _belongs(pid: int, run: str) -> bool:
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False  # it has ended, or is somebody else's
    return f"{VARIABLE}={run}".encode() in environment.split(b"\0")


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it ends when the run has, and no sooner
    os.read(0, 1)  # the lifeline: returns when its last writer, the supervisor, is gone
    if left := end(sys.argv[1]):
        sys.stderr.write(words(left))
        sys.exit(1)
