"""A seeded schedule of faults: SIGKILL and SIGSTOP, at given progress or at fault points."""

import asyncio
import random
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from counterfoil.engines import process_tree, send_signal
from counterfoil.supervisor import LEASE_SECONDS, Supervisor

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
    "idempotency-off": [("service.after-commit", "kill")] * 3,
    "acknowledge-before-commit": [("service.before-commit", "kill")] * 3,
    "offsets-before-state": [("pipeline.between-commits", "kill")] * 3,
    "relay-without-fencing": [("relay.before-append", "pause")],
    "append-without-transaction": [("lake.after-commit", "kill")] * 3,
    "uncommitted-file": [("lake.before-commit", "kill")] * 3,
}
"""The faults that reveal a sabotage. Its schedule has only these, one after the other, since any
other fault could hide the bug (a paused relay that is killed never resumes)."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: at `progress` (the share of final requests), do `action` to `target`."""

    progress: float
    action: str
    target: str
    """A kind of process, or a fault point (with a dot in its name)."""
    seconds: float
    alone: bool = False
    """Whether later faults wait until it is over."""


def schedule(
    seed: int, kinds: Sequence[str], actions: Sequence[str], *, number: int, sabotage: str | None
) -> list[Fault]:
    """Every kind once, then fault points; deterministic for a seed."""
    if sabotage in SABOTAGE_POINTS:
        return [
            Fault(0.05, action, point, LONG_PAUSE, alone=True)
            for point, action in SABOTAGE_POINTS[sabotage]
        ]
    actions = [action for action in actions if action in _ACTIONS]
    if not actions:
        return []
    chance = random.Random(seed)
    targets: list[tuple[str, str]] = [
        (kind, actions[index % len(actions)]) for index, kind in enumerate(kinds)
    ]
    targets += [point for point in POINTS if point[1] in actions]
    chance.shuffle(targets)
    extra = [(chance.choice(kinds), chance.choice(actions)) for _ in range(number)]
    targets = [*targets, *extra][: max(number, 1)]
    return [
        Fault(
            progress=0.05 + 0.85 * index / len(targets),
            action=action,
            target=target,
            seconds=LONG_PAUSE if "." in target else chance.uniform(*PAUSE_SECONDS),
        )
        for index, (target, action) in enumerate(targets)
    ]


LONG_PAUSE: Final = 2 * LEASE_SECONDS
"""At a fault point a pause must outlast the lease, and give the next leader time to work."""
_ACTIONS: Final = {"kill": signal.SIGKILL, "pause": signal.SIGSTOP}
TAKEN_SECONDS: Final = 10.0
"""How long an armed point waits for a process to reach it; then it is disarmed."""
LOOK_SECONDS: Final = 0.5
"""Between two checks whether a process can still reach it: each check reads the stores."""


class FaultInjector:
    """Applies a schedule to the processes of a running supervisor.

    While a point is armed, `is_over` says whether nothing is left that could make a process reach
    it.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        folder: Path,
        seed: int,
        is_over: Callable[[], Awaitable[bool]],
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.by_kind: Counter[str] = Counter()
        self._supervisor = supervisor
        self._folder = folder
        self._is_over = is_over
        self._random = random.Random(seed + 1)
        self._under_way: set[asyncio.Task[None]] = set()
        self._points: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def run(self, faults: Sequence[Fault], progress: Callable[[], float]) -> None:
        """Inject each fault at its progress; returns when all are over."""
        try:
            for fault in faults:
                while progress() < fault.progress:
                    await asyncio.sleep(0.01)
                breaking = self._at_point(fault) if "." in fault.target else self._strike(fault)
                task = asyncio.create_task(breaking)
                self._under_way.add(task)
                if fault.alone:
                    await task
            await asyncio.gather(*self._under_way)
        finally:
            for task in self._under_way:
                task.cancel()

    def count_taken(self) -> None:
        """Count the fault points that were reached; call once, after the run."""
        for taken in self._folder.glob("*.taken"):
            action = taken.read_text().strip()
            self.counts[action] += 1
            self.by_kind[taken.name.split(".")[0]] += 1

    async def _at_point(self, fault: Fault) -> None:
        """Arm a point, after the previous fault at the same point, and wait until it is over."""
        async with self._points[fault.target]:
            self._folder.mkdir(exist_ok=True)
            armed = self._folder / fault.target
            before = self._taken(fault.target)
            temporary = armed.with_name(f".{armed.name}.tmp")
            temporary.write_text(fault.action)
            temporary.replace(armed)
            armed_at = looked_at = time.monotonic()
            is_over = False
            while not (taken := self._taken(fault.target) - before):
                if is_over or time.monotonic() > armed_at + TAKEN_SECONDS:
                    armed.unlink(missing_ok=True)
                    taken = self._taken(fault.target) - before  # it may just have been reached
                    break
                await asyncio.sleep(0.02)
                if time.monotonic() > looked_at + LOOK_SECONDS:
                    is_over = await self._is_over()
                    looked_at = time.monotonic()
            if fault.action == "pause":
                await asyncio.sleep(fault.seconds if taken else 0)
                for path in taken:
                    send_signal(int(path.name.split(".")[-3]), signal.SIGCONT)

    def _taken(self, point: str) -> set[Path]:
        return set(self._folder.glob(f"{point}.*.taken"))

    async def _strike(self, fault: Fault) -> None:
        candidates = [
            child for child in self._supervisor.children if child.plan.kind == fault.target
        ]
        child = self._random.choice(candidates)
        for _ in range(500):  # a restarting process can't be hit: wait until it runs
            if child.pid is not None and child.ready.is_set():
                break
            await asyncio.sleep(0.02)
        pid = child.pid
        if pid is None:
            return
        # An engine's server may be several processes; they fail together, as with their machine.
        victims = process_tree(pid) if child.plan.engine else [pid]
        for victim in victims:
            send_signal(victim, _ACTIONS[fault.action])
        self.counts[fault.action] += 1
        self.by_kind[fault.target] += 1
        if fault.action == "pause":
            await asyncio.sleep(fault.seconds)
            for victim in victims:
                send_signal(victim, signal.SIGCONT)
