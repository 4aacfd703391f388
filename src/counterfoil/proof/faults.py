"""A seeded schedule of faults: SIGKILL and SIGSTOP at moments of progress, or at fault points."""

import asyncio
import os
import random
import signal
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from counterfoil.supervisor import Supervisor

PAUSE_SECONDS: Final = (0.5, 4.5)
"""Shorter and longer than a lease, so that a paused leader is sometimes replaced."""
POINTS: Final = (
    ("service.before-commit", "kill"),
    ("service.after-commit", "kill"),
    ("relay.before-append", "pause"),
    ("relay.before-append", "kill"),
    ("pipeline.before-commit", "kill"),
    ("pipeline.after-commit", "kill"),
    ("lake.before-commit", "kill"),
    ("lake.after-commit", "kill"),
    ("report.before-publish", "kill"),
)
SABOTAGE_POINTS: Final = {
    "acknowledge-before-commit": [("service.before-commit", "kill")] * 3,
    "offsets-before-state": [("pipeline.between-commits", "kill")] * 3,
    "relay-without-fencing": [("relay.before-append", "pause")] * 3,
    "append-without-transaction": [("lake.after-commit", "kill")] * 3,
    "uncommitted-file": [("lake.before-commit", "kill")] * 3,
}
"""Where the bug of a sabotage shows: a fault there is part of its schedule."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: at `progress` (share of the requests that are final) do `action` to `target`."""

    progress: float
    action: str
    target: str
    """A kind of process, or a fault point (with a dot in its name)."""
    seconds: float


def schedule(
    seed: int, kinds: Sequence[str], actions: Sequence[str], *, number: int, sabotage: str | None
) -> list[Fault]:
    """Every kind in turn, then fault points; the same seed gives the same schedule."""
    if not actions:
        return []
    chance = random.Random(seed)
    targets: list[tuple[str, str]] = [
        (kind, actions[index % len(actions)]) for index, kind in enumerate(kinds)
    ]
    targets += [point for point in POINTS if point[1] in actions]
    chance.shuffle(targets)
    extra = [(chance.choice(kinds), chance.choice(actions)) for _ in range(number)]
    targets = [*SABOTAGE_POINTS.get(sabotage or "", []), *targets, *extra][: max(number, 1)]
    return [
        Fault(
            progress=0.05 + 0.85 * index / len(targets),
            action=action,
            target=target,
            seconds=LONG_PAUSE if "." in target else chance.uniform(*PAUSE_SECONDS),
        )
        for index, (target, action) in enumerate(targets)
    ]


LONG_PAUSE: Final = 4.5
"""At a fault point a pause must outlast the lease, or nobody takes over."""


class FaultInjector:
    """Carries a schedule out against a running supervisor's processes."""

    def __init__(self, supervisor: Supervisor, folder: Path, seed: int) -> None:
        self.counts: Counter[str] = Counter()
        self.by_kind: Counter[str] = Counter()
        self._supervisor = supervisor
        self._folder = folder
        self._random = random.Random(seed + 1)
        self._resuming: set[asyncio.Task[None]] = set()

    async def run(self, faults: Sequence[Fault], progress: Callable[[], float]) -> None:
        """Inject each fault when its progress is reached; returns when all are over."""
        for fault in faults:
            while progress() < fault.progress:
                await asyncio.sleep(0.01)
            if "." in fault.target:
                self._arm(fault)
            else:
                await self._strike(fault)
        await asyncio.gather(*self._resuming)

    def count_taken(self) -> None:
        """Count the fault points that went off; call once, after the run."""
        for taken in self._folder.glob("*.taken"):
            action = taken.read_text().strip()
            self.counts[action] += 1
            self.by_kind[taken.name.split(".")[0]] += 1

    def _arm(self, fault: Fault) -> None:
        self._folder.mkdir(exist_ok=True)
        path = self._folder / fault.target
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.write_text(fault.action)
        temporary.replace(path)
        if fault.action == "pause":
            task = asyncio.create_task(self._resume_at_point(path, fault.seconds))
            self._resuming.add(task)

    async def _resume_at_point(self, path: Path, seconds: float) -> None:
        pattern = f"{path.name}.*.taken"
        before = set(path.parent.glob(pattern))
        for _ in range(1_000):
            new = set(path.parent.glob(pattern)) - before
            if new:
                await asyncio.sleep(seconds)
                for taken in new:
                    _signal(int(taken.name.split(".")[-2]), signal.SIGCONT)
                return
            await asyncio.sleep(0.02)

    async def _strike(self, fault: Fault) -> None:
        candidates = [
            child for child in self._supervisor.children if child.plan.kind == fault.target
        ]
        child = self._random.choice(candidates)
        for _ in range(500):  # a process between two lives can't be hurt: wait for the next one
            if child.pid is not None and child.ready.is_set():
                break
            await asyncio.sleep(0.02)
        pid = child.pid
        if pid is None:
            return
        if fault.action == "kill":
            _signal(pid, signal.SIGKILL)
        else:
            _signal(pid, signal.SIGSTOP)
            task = asyncio.create_task(self._resume(pid, fault.seconds))
            self._resuming.add(task)
        self.counts[fault.action] += 1
        self.by_kind[fault.target] += 1

    async def _resume(self, pid: int, seconds: float) -> None:
        await asyncio.sleep(seconds)
        _signal(pid, signal.SIGCONT)


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return  # it died of an earlier fault
