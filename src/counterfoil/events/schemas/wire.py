"""Confluent's wire format, which prefixes a value with its schema's id.

A zero byte, the schema's id in four bytes, big-endian, then the value. For Protobuf the path to the
message within its file comes in between (a count and as many indexes, as zigzag varints); for the
first message of a file, which ours always is, that is the single byte 0.

Source: Confluent Schema Registry, "Formats, Serializers and Deserializers", wire format.
"""

import struct
from typing import Final

from counterfoil.events.errors import UndecodableEvent

_HEADER: Final = struct.Struct(">bI")
MAGIC: Final = b"\0"
HIGHEST_ID: Final = 2**31 - 1
"""Registries use signed 32-bit integers as ids."""
FIRST_MESSAGE: Final = b"\0"
"""The path to the first message of a file."""
_VARINT_BYTES: Final = 5
"""Maximum bytes of an index, which is a 32-bit integer."""


def header(schema_id: int) -> bytes:
    """The prefix of a value for a schema id.

    Raises:
        ValueError: the id is out of range.
    """
    if not 0 <= schema_id <= HIGHEST_ID:
        raise ValueError(f"{schema_id} is no schema id")
    return _HEADER.pack(MAGIC[0], schema_id)


def schema_id_of(data: bytes) -> int:
    """The id of the schema that a value was written with.

    Raises:
        UndecodableEvent: there is none.
    """
    if len(data) < _HEADER.size:
        raise UndecodableEvent(f"{len(data)} bytes hold no schema id, which takes {_HEADER.size}")
    magic, schema_id = _HEADER.unpack_from(data)
    if magic != MAGIC[0]:
        raise UndecodableEvent(
            f"begins with the byte {data[0]:#04x} in place of 0, the magic byte of the wire format",
            hint="its producer does not use a schema registry",
        )
    return schema_id


def content_of(data: bytes) -> bytes:
    """The bytes after the schema id."""
    return data[_HEADER.size :]


def message_path(content: bytes) -> tuple[tuple[int, ...], bytes]:
    """The path to a Protobuf value's message within its file, and the value itself.

    Raises:
        UndecodableEvent: there is no such path.
    """
    count, place = _zigzag(content, 0)
    if count == 0:
        return (0,), content[place:]
    if not 0 < count <= len(content):
        raise UndecodableEvent(f"a path of {count} message indexes is in no Protobuf value")
    path: list[int] = []
    for _ in range(count):
        index, place = _zigzag(content, place)
        path.append(index)
    return tuple(path), content[place:]


def _zigzag(content: bytes, place: int) -> tuple[int, int]:
    """The number at an index, and the index after it."""
    number = 0
    for length, byte in enumerate(content[place : place + _VARINT_BYTES]):
        number |= (byte & 0x7F) << (7 * length)
        if not byte & 0x80:
            return (number >> 1) ^ -(number & 1), place + length + 1
    raise UndecodableEvent("ends within the path to its message")
