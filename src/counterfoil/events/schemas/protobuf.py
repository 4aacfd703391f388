"""Topics in Protobuf, by Google's library: the struct's descriptor reads events of any version.

Fields are matched by number, so a writer's schema isn't needed for decoding; it is checked once for
numbers with another meaning.
"""

import base64
import binascii
from typing import Any, cast

import msgspec
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.message import DecodeError, Message

from counterfoil.events.errors import UndecodableEvent
from counterfoil.events.schemas import wire
from counterfoil.events.schemas.codec import Read, RegisteredCodec
from counterfoil.events.schemas.protobuf_compatibility import incompatibilities, missing
from counterfoil.events.schemas.protobuf_messages import message_of
from counterfoil.events.schemas.protobuf_schema import protobuf_file
from counterfoil.events.schemas.schema import Incompatibility, Schema


class ProtobufCodec(RegisteredCodec):
    """Events of a struct as messages of Protobuf."""

    def __init__(self, event: type) -> None:
        self._event = event
        self._file = protobuf_file(event)
        self._message = message_of(event, self._file)
        text = base64.standard_b64encode(self._file.SerializeToString(deterministic=True)).decode()
        super().__init__(Schema("PROTOBUF", text))

    def write(self, value: Any) -> bytes:
        """Encode an event: the path to the message, and the message.

        Raises:
            InvalidEvent: a number too large, a time without its zone, a value of another type.
        """
        message: Message = self._message.make(value)
        return wire.FIRST_MESSAGE + message.SerializeToString()

    def reader(self, writer: Schema) -> Read:
        """A decoder for a writer's events.

        Raises:
            UndecodableEvent: its schema uses one of our numbers for something else.
        """
        written = file_of(writer)
        for each in incompatibilities(self._file, written) if written else []:
            if each.unnoticed:
                raise UndecodableEvent(f"its writer's schema is another: {each}")
        event, message = self._event, self._message

        def decode(content: bytes) -> Any:
            path, value = wire.message_path(content)
            if path != (0,):
                where = "/".join(map(str, path))
                raise UndecodableEvent(f"is message {where} of its file, and not the first one")
            return cast("Any", msgspec.convert(message.take(message.kind.FromString(value)), event))

        return decode

    def incompatibilities(self, reader: Schema, writer: Schema) -> list[Incompatibility]:
        """Why one schema can't read what was written with the other; empty if it can.

        A registry may return a schema as text, which only its own check covers.
        """
        read, written = file_of(reader), file_of(writer)
        if read is None or written is None:
            return []
        found = incompatibilities(read, written)
        if reader == self.schema:
            found += missing(self._event, written)
        return found


def file_of(schema: Schema) -> FileDescriptorProto | None:
    """The file of a schema, or None if it is written as text."""
    try:
        return FileDescriptorProto.FromString(base64.standard_b64decode(schema.text))
    except (binascii.Error, DecodeError, ValueError):
        return None
