"""Typed topics: a name, the type of its events, and how a key finds its partition."""

import zlib
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, Final, Generic, TypeVar

import msgspec

T = TypeVar("T")
PLACES: Final = 16_384
"""Partitions of keys that are remembered: keys come again, and some megabytes are little."""
_ENCODER: Final = msgspec.json.Encoder()


@dataclass(frozen=True)
class Topic(Generic[T]):
    """A stream of events of one type, in order within a key."""

    name: str
    type: type[T]
    partitions: int = field(default=4, kw_only=True)
    retention_seconds: int | None = field(default=None, kw_only=True)
    """How long events are kept; None for the engine's default, which is for ever if embedded."""

    def encode(self, value: T) -> bytes:
        """The event as JSON."""
        return _ENCODER.encode(value)

    def decode(self, data: bytes) -> T:
        """The event from JSON.

        Raises:
            msgspec.DecodeError: not JSON, or not of this type.
        """
        return self._decoder.decode(data)

    def partition_of(self, key: str) -> int:
        """The partition of a key's events."""
        return partition_of(key, self.partitions)

    @cached_property
    def _decoder(self) -> msgspec.json.Decoder[T]:
        """Made once: to understand a type takes longer than to decode an event of it."""
        return msgspec.json.Decoder(self.type)


AnyTopic = Topic[Any]


@lru_cache(PLACES)
def partition_of(key: str, partitions: int) -> int:
    """CRC-32 of the key modulo the partitions, as librdkafka's default partitioner does."""
    return zlib.crc32(key.encode()) % partitions
