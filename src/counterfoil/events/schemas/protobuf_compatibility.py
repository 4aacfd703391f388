"""Compatibility of two Protobuf files, with the offending field.

Fields are matched by number, so a number must keep its name and type. Protobuf itself allows
another name; but here numbers follow the order of fields by default and shift when a field is
inserted or removed, and values would be read as their neighbours'.

Reading integers as wider ones, as Protobuf allows, isn't needed: there is only one integer type.
"""

from collections.abc import Iterator, Mapping
from typing import Final

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
)
from msgspec import inspect

from counterfoil.events.schemas.protobuf_schema import REPEATED
from counterfoil.events.schemas.schema import Incompatibility
from counterfoil.events.schemas.structs import below, struct_of, unwrapped

_TYPE: Final = FieldDescriptorProto.Type
_REPEATED: Final = FieldDescriptorProto.LABEL_REPEATED


def incompatibilities(
    reader: FileDescriptorProto, writer: FileDescriptorProto
) -> list[Incompatibility]:
    """Why the first message of `reader` can't read that of `writer`; none if it can."""
    if not reader.message_type or not writer.message_type:
        return [Incompatibility("", "the file has no message", unnoticed=True)]
    return list(_Comparison(reader, writer).messages(reader.message_type[0].name, ""))


def missing(event: type, writer: FileDescriptorProto) -> list[Incompatibility]:
    """The required fields of a struct that the writer's schema lacks.

    Descriptors don't tell that a field is required: the struct does.
    """
    messages = {each.name: each for each in writer.message_type}
    return list(_missing(struct_of(event), messages, "", set()))


def _missing(
    struct: inspect.StructType,
    messages: Mapping[str, DescriptorProto],
    path: str,
    seen: set[type],
) -> Iterator[Incompatibility]:
    message = messages.get(struct.cls.__name__)
    if message is None or struct.cls in seen:
        return
    seen.add(struct.cls)
    written = {field.name for field in message.field}
    for field in struct.fields:
        found, optional, _ = unwrapped(field.type)
        within = below(path, field.encode_name)
        many = isinstance(found, (*REPEATED, inspect.DictType))
        if field.encode_name not in written and field.required and not optional and not many:
            yield Incompatibility(within, "has no default, and events without it are to be read")
        if isinstance(found, REPEATED):
            found, within = unwrapped(found.item_type)[0], f"{within}[]"
        elif isinstance(found, inspect.DictType):
            found, within = unwrapped(found.value_type)[0], f"{within}{{}}"
        if isinstance(found, inspect.StructType):
            yield from _missing(found, messages, within, seen)


class _Comparison:
    def __init__(self, reader: FileDescriptorProto, writer: FileDescriptorProto) -> None:
        self._readers = _messages(reader)
        self._writers = _messages(writer)
        self._reader_enums = {f".{each.name}": each for each in reader.enum_type}
        self._writer_enums = {f".{each.name}": each for each in writer.enum_type}
        self._first = f".{writer.message_type[0].name}"
        self._seen: set[str] = set()
        """Messages that were compared: they may be recursive."""

    def messages(self, name: str, path: str) -> Iterator[Incompatibility]:
        """Compare the first messages, recursively."""
        yield from self._message(f".{name}", self._first, path)

    def _message(self, now: str, was: str, path: str) -> Iterator[Incompatibility]:
        if now != was:
            rule = f"the message {was[1:]} has another name, {now[1:]}"
            yield Incompatibility(path, rule, unnoticed=True)
            return
        if now in self._seen or now not in self._readers or was not in self._writers:
            return
        self._seen.add(now)
        written = {field.number: field for field in self._writers[was].field}
        numbers = {field.name: field.number for field in written.values()}
        for field in self._readers[now].field:
            within = below(path, field.name)
            if field.number in written:
                yield from self._field(field, written[field.number], within)
            elif field.name in numbers:
                rule = f"was number {numbers[field.name]} and is number {field.number}"
                yield Incompatibility(within, rule, unnoticed=True)

    def _field(
        self, field: FieldDescriptorProto, written: FieldDescriptorProto, path: str
    ) -> Iterator[Incompatibility]:
        if field.name != written.name:
            rule = f"number {field.number} was {written.name} and is {field.name}"
            yield Incompatibility(path, rule, unnoticed=True)
        elif (field.type, field.label) != (written.type, written.label):
            rule = f"was {_said(written)} and is {_said(field)}"
            yield Incompatibility(path, rule, unnoticed=True)
        elif field.type == FieldDescriptorProto.TYPE_MESSAGE:
            mark = "[]" if field.label == _REPEATED else ""
            yield from self._message(field.type_name, written.type_name, path + mark)
        elif field.type == FieldDescriptorProto.TYPE_ENUM:
            yield from self._enum(field.type_name, written.type_name, path)

    def _enum(self, now: str, was: str, path: str) -> Iterator[Incompatibility]:
        if now != was or now not in self._reader_enums or was not in self._writer_enums:
            if now != was:
                rule = f"the enum {was[1:]} has another name, {now[1:]}"
                yield Incompatibility(path, rule, unnoticed=True)
            return
        known = _members(self._reader_enums[now])
        for number, name in _members(self._writer_enums[was]).items():
            if number not in known:
                yield Incompatibility(path, f"knows nothing of the member {name}")
            elif known[number] != name:
                rule = f"member {number} was {name} and is {known[number]}"
                yield Incompatibility(path, rule, unnoticed=True)


def _messages(file: FileDescriptorProto) -> dict[str, DescriptorProto]:
    """All messages by their full names, including entries of maps."""
    found = {f".{each.name}": each for each in file.message_type}
    for each in file.message_type:
        found |= {f".{each.name}.{entry.name}": entry for entry in each.nested_type}
    return found


def _members(kind: EnumDescriptorProto) -> dict[int, str]:
    return {value.number: value.name for value in kind.value}


def _said(field: FieldDescriptorProto) -> str:
    """A type's description for errors."""
    kind = _TYPE.Name(field.type).removeprefix("TYPE_").lower()
    return f"repeated {kind}" if field.label == _REPEATED else kind
