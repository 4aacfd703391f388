"""Heavy hitters: the most frequent keys, in bounded memory.

Space-Saving (Metwally, Agrawal and El Abbadi, 2005): a fixed number of counters; a key without one
replaces that with the smallest count, and inherits the count. So a count is never too small, is too
large by at most the inherited count, and every key with more than 1/capacity of the events has a
counter.
"""

from typing import Final

import msgspec

CAPACITY: Final = 256
"""A key with more than 0.4% of the events is always found; hot keys have far more."""
FADING: Final = 100_000
"""Events after which all counts are halved, so that old ones fade."""


class HotKey(msgspec.Struct, frozen=True):
    """A key and its share of the events, which is between `share - error` and `share`."""

    key: str
    share: float
    error: float


class KeyLoad(HotKey, frozen=True):
    """A hot key with its current backlog."""

    waiting: int
    """Its events in memory that are not done; far more than others have means it is too slow."""


class HeavyHitters:
    """Counts keys; not thread-safe."""

    def __init__(self, capacity: int = CAPACITY, fading: int = FADING) -> None:
        self._capacity = capacity
        self._fading = fading
        self._counts: dict[str, int] = {}
        self._errors: dict[str, int] = {}
        self._buckets: dict[int, dict[str, None]] = {}
        """The keys by count, to find one with the smallest in constant time."""
        self._smallest = 0
        self.total = 0

    def add(self, key: str) -> None:
        """Count an event of `key`, in constant time."""
        self.total += 1
        count = self._counts.get(key)
        if count is not None:
            self._move(key, count, count + 1)
        elif len(self._counts) < self._capacity:
            self._put(key, 1)
            self._errors[key] = 0
            self._smallest = 1
        else:
            loser = next(iter(self._buckets[self._smallest]))
            taken = self._counts.pop(loser)
            del self._errors[loser]
            self._take(loser, taken)
            self._put(key, taken + 1)
            self._errors[key] = taken
            self._settle()
        if self.total >= self._fading:
            self._fade()

    def top(self, number: int = 10) -> list[HotKey]:
        """The keys with the largest counts, the largest first."""
        largest = sorted(self._counts.items(), key=lambda pair: (-pair[1], pair[0]))[:number]
        total = max(self.total, 1)
        return [HotKey(key, count / total, self._errors[key] / total) for key, count in largest]

    def _move(self, key: str, old: int, new: int) -> None:
        self._take(key, old)
        self._put(key, new)
        self._settle()

    def _put(self, key: str, count: int) -> None:
        self._counts[key] = count
        self._buckets.setdefault(count, {})[key] = None

    def _take(self, key: str, count: int) -> None:
        bucket = self._buckets[count]
        del bucket[key]
        if not bucket:
            del self._buckets[count]

    def _settle(self) -> None:
        # A key leaves the smallest bucket by one increment, so the next smallest is one above.
        while self._smallest not in self._buckets:
            self._smallest += 1

    def _fade(self) -> None:
        counts = {key: count // 2 for key, count in self._counts.items() if count > 1}
        self._errors = {key: self._errors[key] // 2 for key in counts}
        self.total //= 2
        self._counts, self._buckets = {}, {}
        for key, count in counts.items():
            self._put(key, count)
        self._smallest = min(self._buckets, default=0)
