"""Scheduling of a parallel pipeline, without I/O: in order within a lane, free across lanes.

Events stand in lanes, by key, by partition, or each alone. Of a lane, one is worked on at a time;
the next may begin when the work of the one before is done. Results are handed out in the order in
which the work was done, so their effects keep the order of their lanes. A position moves over
events from the first on whose effects are durable; those beyond the first gap are remembered, so
that a restart leaves them out. No threads, no I/O: callers hold a lock.
"""

from collections import deque
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

from counterfoil.events.messages import Record

Place = tuple[str, int]
"""A topic and a partition."""
Positions = dict[Place, tuple[int, list[int]]]
"""Up to which offset all is done, and the offsets beyond it that are."""
ALONE: Final = ""


class Item:
    """An event on its way."""

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
    """The events that are held."""

    def __init__(self, concurrency: int, done: Mapping[Place, Iterable[int]]) -> None:
        """`done` names the offsets that were done before a restart, beyond the positions."""
        self._concurrency = concurrency
        self._before = {place: set(offsets) for place, offsets in done.items()}
        """Of these, what has not come in again."""
        self._lanes: dict[str, deque[Item]] = {}
        """Of each lane that is at work, those that wait."""
        self._ready: deque[Item] = deque()
        self._held: dict[Place, deque[Item]] = {}
        self._worked: deque[Item] = deque()
        self.running = 0
        self.held = 0
        self.held_bytes = 0

    def add(self, items: Iterable[Item]) -> None:
        """Take in events, those of a partition in order."""
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
        """The events whose work is to begin now."""
        begun: list[Item] = []
        while self._ready and self.running < self._concurrency:
            begun.append(self._ready.popleft())
            self.running += 1
        return begun

    def worked(self, item: Item) -> None:
        """The work of an event has come to an end, good or bad."""
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
        """How many events of each of these keys are held whose effects are not durable yet."""
        found = dict.fromkeys(keys, 0)
        for items in self._held.values():
            for item in items:
                if not item.done and item.record.key in found:
                    found[item.record.key] += 1
        return found

    def take_worked(self, limit: int) -> list[Item]:
        """Events whose work is done and whose effects are not, the longest done first."""
        return [self._worked.popleft() for _ in range(min(limit, len(self._worked)))]

    def passable(self) -> bool:
        """Whether a position can move though no work was done: all was done before a restart."""
        return any(items and items[0].done for items in self._held.values())

    def positions(self, group: Iterable[Item]) -> Positions:
        """Where the partitions of `group` stand once it is durable.

        Returns the position up to which all is done, and the offsets beyond it that are. Partitions
        whose first events were done before a restart are in it as well.
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
        """The effects of `group` and `positions` are durable: let go of what lies before them.

        What came in since the positions were taken stays, though it may be done: no position has
        moved over it yet.
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
