"""Fault injection: points at which a process can be killed or stopped, and seeded bugs.

A *fault point* marks the worst possible moment in a piece of code (between two effects that must
be one). It does nothing unless the process was started with ``COUNTERFOIL_FAULTS`` naming a
folder. `counterfoil prove` then arms a point by writing a file ``NAME`` there that holds ``kill``
or ``pause``; the first process to reach the point takes the file away and sends itself SIGKILL or
SIGSTOP. Nobody can clean up, which is what makes it a fault.

A *sabotage* is a bug switched on by ``COUNTERFOIL_SABOTAGE``. It exists so that the checker can
be shown to fail; `counterfoil up` refuses to start with it outside of a proof.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Final

SABOTAGES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "idempotency-off": "the service forgets the answers it gave, so a retry pays twice",
        "acknowledge-before-commit": "the service answers 201 before its transaction is durable",
        "offsets-before-state": "a pipeline commits its offsets before its state",
        "relay-without-fencing": "the log accepts a relay whose leadership has ended",
        "append-without-transaction": "the lake writer repeats an append after a crash",
        "uncommitted-file": "the report reads every file in the table's folder, committed or not",
        "duplicate-payloads": "the lake writer drops events whose payload it has seen before",
    }
)

_FOLDER: Final = os.environ.get("COUNTERFOIL_FAULTS")
_SABOTAGE: Final = os.environ.get("COUNTERFOIL_SABOTAGE")
_observers: list[Callable[[str], None]] = []
"""Told of every fault point that is reached, in tests that run in one process."""
_SIGNALS: Final = MappingProxyType({"kill": signal.SIGKILL, "pause": signal.SIGSTOP})


def point(name: str, *helpers: int) -> None:
    """Die or stop here if the point `name` was armed; otherwise do nothing.

    `helpers` are processes that do this one's work: they die with it.
    """
    for observe in _observers:
        observe(name)
    if _FOLDER is None:
        return
    armed = Path(_FOLDER, name)
    if not armed.exists():
        return
    try:
        action = armed.read_text().strip()
        armed.rename(armed.with_name(f"{name}.{os.getpid()}.{time.monotonic_ns()}.taken"))
    except FileNotFoundError:
        return  # another process was faster: one armed point is one fault
    for pid in helpers if action == "kill" else ():
        os.kill(pid, signal.SIGKILL)
    os.kill(os.getpid(), _SIGNALS[action])


@contextmanager
def observed(observe: Callable[[str], None]) -> Generator[None, None, None]:
    """Tell `observe` of the points that this process reaches; what it raises is raised there."""
    _observers.append(observe)
    try:
        yield
    finally:
        _observers.remove(observe)


@contextmanager
def point_inside(
    name: str, reached: Callable[[], bool], *helpers: int
) -> Generator[None, None, None]:
    """A point in the middle of somebody else's call: a thread looks for the moment to come."""
    if _FOLDER is None or not Path(_FOLDER, name).exists():
        yield
        return
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.002):
            if reached():
                point(name, *helpers)
                return

    looking = threading.Thread(target=look, name=name, daemon=True)
    looking.start()
    try:
        yield
    finally:
        over.set()
        looking.join()


def sabotaged(name: str) -> bool:
    """Whether the seeded bug `name` is switched on in this process.

    Raises:
        KeyError: no such sabotage.
    """
    if name not in SABOTAGES:
        raise KeyError(name)
    return name == _SABOTAGE
