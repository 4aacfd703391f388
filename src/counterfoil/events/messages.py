"""Messages to append to a log, and records read from it.

Both are numerous and have no cycles, so they are exempt from garbage collection (`gc=False`).
"""

import msgspec


class Message(msgspec.Struct, frozen=True, gc=False):
    """An event to append to the log."""

    event_id: int
    topic: str
    key: str
    value: bytes
    headers: dict[str, str]
    timestamp_us: int


class Record(msgspec.Struct, frozen=True, gc=False):
    """An event with its offset in the log."""

    topic: str
    partition: int
    offset: int
    event_id: int
    key: str
    value: bytes
    headers: dict[str, str]
    timestamp_us: int


class Batch(msgspec.Struct, frozen=True):
    """Records of one partition, in order, read from the position `start`."""

    topic: str
    partition: int
    start: int
    records: list[Record]

    @property
    def end(self) -> int:
        """The position after the last record."""
        return self.records[-1].offset + 1


class Lag(msgspec.Struct, frozen=True):
    """How far a consumer group is behind the end of a partition, in records."""

    group: str
    topic: str
    partition: int
    committed: int
    end: int
    lag: int
