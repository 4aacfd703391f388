"""A bounded cache in two generations.

An entry that is used moves to the young generation. When that is full, the old one is evicted as a
whole and the young one takes its place. So eviction needs no list of uses, and a working set that
fits into one generation is never evicted.
"""

from typing import Final, Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")
ENTRY_BYTES: Final = 200
"""Approximate overhead of an entry: key, object headers, slot in a dictionary."""


class Generations(Generic[K, V]):
    """A cache of at most about twice `limit_bytes` bytes."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._young: dict[K, V] = {}
        self._old: dict[K, V] = {}
        self._bytes = 0

    def get(self, key: K, absent: V) -> V:
        """The value under `key`, or `absent`."""
        if key in self._young:
            return self._young[key]
        if key in self._old:
            value = self._old.pop(key)
            self.put(key, value)
            return value
        return absent

    def put(self, key: K, value: V, size: int = 0) -> None:
        """Cache a value of `size` bytes."""
        if key not in self._young:
            self._bytes += ENTRY_BYTES
        self._bytes += size
        self._young[key] = value
        if self._bytes > self._limit_bytes:
            self._old, self._young, self._bytes = self._young, {}, 0

    def clear(self) -> None:
        """Remove all entries."""
        self._young, self._old, self._bytes = {}, {}, 0
