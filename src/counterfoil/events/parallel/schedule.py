"""Scheduling of a parallel pipeline, without I/O: in order within a lane, free across lanes.

Events are in lanes: by key, by partition, or each alone. One event of a lane is processed at a
time; the next starts when the work of the previous one is done. Results are returned in the order
in which work was finished, so effects keep the order within lanes. A position advances to the first
event whose effects are not durable; offsets of durable events beyond that are recorded, so that
they are skipped after a restart. No threads, no I/O: callers hold a lock.
"""

from collections import deque
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

from counterfoil.events.messages import Record

Place = tuple[str, int]
"""A topic and a partition."""
Positions = dict[Place, tuple[int, list[int]]]
"""The offset up to which all is done, and the offsets beyond it that are done."""
ALONE: Final = ""


class Item:
    """An event in progress."""

    __slots__ = ("done", "error", "event", "lane", "record", "result", "tries")

    def __init__(self, record: Record, event: Any, lane: str) -> None:
        self.record = record
        self.event = event
        self.lane = lane
        """Its lane; `ALONE` for none."""
        self.result: Any = None
        self.error: Exception | None = None
        self.tries = 0
        self.done = False
        """Whether its effects are durable."""


class Schedule:
    """The events in memory."""

    def __init__(self, concurrency: int, done: Mapping[Place, Iterable[int]]) -> None:
        """`done` has the offsets beyond the positions that were done before a restart."""
        self._concurrency = concurrency
        self._before = {place: set(offsets) for place, offsets in done.items()}
        """Those of `done` that have not been read again yet."""
        self._lanes: dict[str, deque[Item]] = {}
        """The waiting events of each active lane."""
        self._ready: deque[Item] = deque()
        self._held: dict[Place, deque[Item]] = {}
        self._worked: deque[Item] = deque()
        self.running = 0
        self.held = 0
        self.held_bytes = 0

    def add(self, items: Iterable[Item]) -> None:
        """Add events, those of a partition in order."""
        for item in items:
            record = item.record
            place = (record.topic, record.partition)
            self._held.setdefault(place, deque()).append(item)
            self.held += 1
            self.held_bytes += len(record.value)
            if record.offset in self._before.get(place, ()):
                self._before[place].discard(record.offset)
                item.done = True
            elif item.lane == ALONE:
                self._ready.append(item)
            elif item.lane in self._lanes:
                self._lanes[item.lane].append(item)
            else:
                self._lanes[item.lane] = deque()
                self._ready.append(item)

    def begin(self) -> list[Item]:
        """The events whose work may start now."""
        begun: list[Item] = []
        while self._ready and self.running < self._concurrency:
            begun.append(self._ready.popleft())
            self.running += 1
        return begun

    def worked(self, item: Item) -> None:
        """The work of an event has ended, with success or failure."""
        self.running -= 1
        self._worked.append(item)
        if item.lane == ALONE:
            return
        waiting = self._lanes[item.lane]
        if waiting:
            self._ready.append(waiting.popleft())
        else:
            del self._lanes[item.lane]

    def waiting(self, keys: Collection[str]) -> dict[str, int]:
        """How many events of each of these keys are in memory and not durable yet."""
        found = dict.fromkeys(keys, 0)
        for items in self._held.values():
            for item in items:
                if not item.done and item.record.key in found:
                    found[item.record.key] += 1
        return found

    def take_worked(self, limit: int) -> list[Item]:
        """Remove and return events to commit, in the order in which their work ended."""
        return [self._worked.popleft() for _ in range(min(limit, len(self._worked)))]

    def passable(self) -> bool:
        """Whether a position can advance without new work, past events done before a restart."""
        return any(items and items[0].done for items in self._held.values())

    def positions(self, group: Iterable[Item]) -> Positions:
        """The positions of the partitions of `group` once it is durable.

        Includes partitions whose first events were done before a restart.
        """
        done = set(map(id, group))
        places = {(item.record.topic, item.record.partition) for item in group}
        places |= {place for place, items in self._held.items() if items and items[0].done}
        found: Positions = {}
        for place in places:
            following, beyond, whole = 0, list[int](), True
            for item in self._held[place]:
                if not (item.done or id(item) in done):
                    if whole and following == 0:
                        following = item.record.offset
                    whole = False
                elif whole:
                    following = item.record.offset + 1
                else:
                    beyond.append(item.record.offset)
            found[place] = (following, [*beyond, *sorted(self._before.get(place, ()))])
        return found

    def durable(self, group: Iterable[Item], positions: Positions) -> None:
        """The effects of `group` and `positions` are durable: drop the events before them.

        Events added since the positions were computed stay, even if done: no stored position is
        past them yet.
        """
        for item in group:
            item.done = True
            item.event = item.result = None
        for place, (following, _) in positions.items():
            items = self._held[place]
            while items and items[0].record.offset < following:
                record = items.popleft().record
                self.held -= 1
                self.held_bytes -= len(record.value)
