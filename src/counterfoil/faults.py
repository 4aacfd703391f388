"""Fault injection: points at which a process can be killed or stopped, and seeded bugs.

A *fault point* marks the worst possible moment in a piece of code, between two effects that must be
one. It does nothing unless the process was started with ``COUNTERFOIL_FAULTS`` naming a folder.
`counterfoil prove` then arms a point by writing a file ``NAME`` there that contains ``kill`` or
``pause``. The first process that reaches the point removes the file and sends itself SIGKILL or
SIGSTOP, so that no cleanup can run.

A *sabotage* is a bug enabled by ``COUNTERFOIL_SABOTAGE``, to show that the checker finds it. Only
`counterfoil prove` sets it, and `counterfoil up` refuses to start with it.
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
"""Callbacks for every fault point that is reached, for tests that run in one process."""
_SIGNALS: Final = MappingProxyType({"kill": signal.SIGKILL, "pause": signal.SIGSTOP})


def point(name: str, *helpers: int) -> None:
    """Die or stop here if the point `name` is armed; otherwise do nothing.

    `helpers` are processes that work for this one: they are killed with it.
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
        return  # another process was faster: an armed point is one fault
    for pid in helpers if action == "kill" else ():
        os.kill(pid, signal.SIGKILL)
    os.kill(os.getpid(), _SIGNALS[action])


@contextmanager
def observed(observe: Callable[[str], None]) -> Generator[None, None, None]:
    """Call `observe` for the points that this process reaches; its exceptions are raised there."""
    _observers.append(observe)
    try:
        yield
    finally:
        _observers.remove(observe)


@contextmanager
def point_inside(
    name: str, reached: Callable[[], bool], *helpers: int
) -> Generator[None, None, None]:
    """A point within a library's call: a thread polls `reached` for the right moment."""
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
    """Whether the seeded bug `name` is enabled in this process.

    Raises:
        KeyError: no such sabotage.
    """
    if name not in SABOTAGES:
        raise KeyError(name)
    return name == _SABOTAGE


def enabled_sabotage() -> str | None:
    """The name of the seeded bug that is enabled in this process, if one is."""
    return _SABOTAGE
