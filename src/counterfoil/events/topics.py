"""Typed topics: a name, the type of its events, and how a key finds its partition."""

import zlib
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import msgspec

T = TypeVar("T")


@dataclass(frozen=True)
class Topic(Generic[T]):
    """A stream of events of one type, in order within a key."""

    name: str
    type: type[T]
    partitions: int = field(default=4, kw_only=True)

    def encode(self, value: T) -> bytes:
        """The event as JSON."""
        return msgspec.json.encode(value)

    def decode(self, data: bytes) -> T:
        """The event from JSON.

        Raises:
            msgspec.DecodeError: not JSON, or not of this type.
        """
        return msgspec.json.decode(data, type=self.type)

    def partition_of(self, key: str) -> int:
        """The partition of a key's events."""
        return partition_of(key, self.partitions)


AnyTopic = Topic[Any]


def partition_of(key: str, partitions: int) -> int:
    """CRC-32 of the key modulo the partitions, as librdkafka's default partitioner does."""
    return zlib.crc32(key.encode()) % partitions
