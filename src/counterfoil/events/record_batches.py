"""Record batches of the embedded log: many records in one row.

A row for each record, with a key of three columns and an index entry, would cost more than the rest
of a pipeline's step. A batch is MessagePack, an array for each record: `[event id, key, value,
headers, time in microseconds]`. Topic, partition and the last offset are columns of the row; the
other offsets are consecutive.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import msgspec

from counterfoil.events.messages import Message, Record

BATCH_RECORDS: Final = 1_000
"""A pipeline's default commit limit: a reader with a smaller limit decodes some in advance."""
BATCH_BYTES: Final = 1 << 20
"""Limit on the values of a batch: it is decoded as a whole, so this bounds the cost of reading one
record."""
_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(list[tuple[int, str, bytes, dict[str, str], int]])


def encode(messages: Iterable[Message]) -> bytes:
    """The messages of one partition as a batch."""
    return _ENCODER.encode(
        [
            (each.event_id, each.key, each.value, each.headers, each.timestamp_us)
            for each in messages
        ]
    )


def decode(topic: str, partition: int, last: int, batch: bytes) -> list[Record]:
    """The records of a batch whose last one is at the offset `last`.

    Raises:
        msgspec.DecodeError: the file is damaged.
    """
    found = _DECODER.decode(batch)
    first = last - len(found) + 1
    return [
        Record(topic, partition, offset, event_id, key, value, headers, timestamp_us)
        for offset, (event_id, key, value, headers, timestamp_us) in enumerate(found, first)
    ]


def split(messages: Sequence[Message]) -> Iterable[Sequence[Message]]:
    """Split messages of one partition into batches within the limits, in order."""
    size = sum([len(message.value) for message in messages])
    small = len(messages) <= BATCH_RECORDS and size <= BATCH_BYTES
    return [messages] if small and messages else _portions(messages)


def _portions(messages: Sequence[Message]) -> Iterator[Sequence[Message]]:
    start, size = 0, 0
    for number, message in enumerate(messages):
        if number > start and (
            number - start == BATCH_RECORDS or size + len(message.value) > BATCH_BYTES
        ):
            yield messages[start:number]
            start, size = number, 0
        size += len(message.value)
    if start < len(messages):
        yield messages[start:]
