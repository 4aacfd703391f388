"""Derives the Protobuf descriptor of a struct; rejects what Protobuf can't represent exactly.

Every field that isn't a list or a map is `optional`, with explicit presence: a missing field gets
the struct's default, not zero.

A field's number is its position in the struct, from 1, or the one in `Meta(extra={"number": n})`;
either all fields of a struct have a number there, or none. An enum member's number is its position,
from 1; 0 is `..._UNSPECIFIED`, which is never written.

| type | Protobuf |
|---|---|
| `int`, an enum of ints | `int64`; encoding rejects larger numbers |
| `float`, `bool`, `bytes` | `double`, `bool`, `bytes` |
| `str`, `Literal` of strings | `string` |
| `Decimal`, `date`, `time` without a zone, `UUID` | `string`, as in JSON |
| `datetime` with a zone | `google.protobuf.Timestamp`; decoded in UTC |
| an enum of strings | `enum` |
| `list`, `set`, `frozenset`, `tuple[T, ...]` | `repeated` |
| `dict[str, T]`, `dict[int, T]` | `map` |
| another struct | `message` |
| `T | None` of anything but lists and maps | a missing field |

Source: Protocol Buffers language guide (proto 3), "Field Presence".
"""

import enum
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import msgspec
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
)
from msgspec import inspect

from counterfoil.events.schemas.structs import (
    below,
    check_struct,
    described,
    refusal,
    struct_of,
    unwrapped,
)

_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]*\Z")
_ONE_SYMBOL: Final = (
    "rename one; names are in capitals here, and UNSPECIFIED is what was never written"
)
HIGHEST_NUMBER: Final = 18_999
"""The last field number before those that Protobuf reserves."""
TIMESTAMP: Final = ".google.protobuf.Timestamp"
TIMESTAMP_FILE: Final = "google/protobuf/timestamp.proto"
_SIMPLE: Final[Mapping[type[inspect.Type], FieldDescriptorProto.Type.ValueType]] = MappingProxyType(
    {
        inspect.IntType: FieldDescriptorProto.TYPE_INT64,
        inspect.FloatType: FieldDescriptorProto.TYPE_DOUBLE,
        inspect.BoolType: FieldDescriptorProto.TYPE_BOOL,
        inspect.BytesType: FieldDescriptorProto.TYPE_BYTES,
        inspect.StrType: FieldDescriptorProto.TYPE_STRING,
        inspect.DecimalType: FieldDescriptorProto.TYPE_STRING,
        inspect.DateType: FieldDescriptorProto.TYPE_STRING,
        inspect.UUIDType: FieldDescriptorProto.TYPE_STRING,
    }
)
REPEATED: Final = (
    inspect.ListType,
    inspect.SetType,
    inspect.FrozenSetType,
    inspect.VarTupleType,
)


def protobuf_file(event: type) -> FileDescriptorProto:
    """The file whose first message is the struct.

    Raises:
        UnmappableType: names the field that can't be mapped.
    """
    return _Derivation(event.__name__).derive(struct_of(event))


def symbol(kind: type[enum.Enum], name: str) -> str:
    """The name of an enum's member, which must be unique in the file."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", kind.__name__)
    return f"{words}_{name}".upper()


class _Derivation:
    """One file; a named type is defined at its first use."""

    def __init__(self, name: str) -> None:
        self._file = FileDescriptorProto(name=f"{name}.proto", syntax="proto3")
        self._named: dict[str, type] = {}

    def derive(self, struct: inspect.StructType) -> FileDescriptorProto:
        self._message(struct, "")
        return self._file

    def _message(self, struct: inspect.StructType, path: str) -> None:
        check_struct(struct, path)
        if self._known(struct.cls, path):
            return
        message = self._file.message_type.add(name=struct.cls.__name__)
        for field, number in zip(struct.fields, _numbers(struct, path), strict=True):
            within = below(path, field.encode_name)
            _check_name(field.encode_name, within)
            self._field(message, field, number, within)
        # After the fields: synthetic oneofs come last, in the order of their fields.
        for field in message.field:
            if field.proto3_optional:
                field.oneof_index = len(message.oneof_decl)
                message.oneof_decl.add(name=f"_{field.name}")

    def _field(
        self, message: DescriptorProto, field: inspect.Field, number: int, path: str
    ) -> None:
        found, optional, _ = unwrapped(field.type)
        written = message.field.add(name=field.encode_name, number=number)
        written.label = FieldDescriptorProto.LABEL_OPTIONAL
        if isinstance(found, (*REPEATED, inspect.DictType)):
            if optional:
                raise refusal(path, "None can't be told from empty", "leave `| None` out")
            default = field.default_factory
            if default not in (msgspec.NODEFAULT, list, set, frozenset, tuple, dict):
                raise refusal(path, "what is empty can't be told from its default", "begin empty")
            written.label = FieldDescriptorProto.LABEL_REPEATED
            if isinstance(found, inspect.DictType):
                written.type = FieldDescriptorProto.TYPE_MESSAGE
                written.type_name = self._entry(message, found, written.name, path)
            else:
                self._element(written, found.item_type, f"{path}[]")
            return
        if optional and field.default not in (None, msgspec.NODEFAULT):
            raise refusal(path, "None can't be told from the default", "make None the default")
        self._fill(written, found, path)
        written.proto3_optional = True

    def _element(self, written: FieldDescriptorProto, declared: inspect.Type, path: str) -> None:
        found, optional, _ = unwrapped(declared)
        if optional:
            raise refusal(path, "a list or a map holds no None")
        self._fill(written, found, path)

    def _entry(
        self, message: DescriptorProto, found: inspect.DictType, name: str, path: str
    ) -> str:
        """The message of a map's entries; Protobuf derives its name from the field's."""
        if not isinstance(found.key_type, inspect.StrType | inspect.IntType):
            raise refusal(path, f"keys are {described(found.key_type)}", "use strings or integers")
        capital = "".join(part[:1].upper() + part[1:] for part in name.split("_"))
        entry = message.nested_type.add(name=f"{capital}Entry")
        entry.options.map_entry = True
        for number, (part, kind) in enumerate(
            (("key", found.key_type), ("value", found.value_type)), 1
        ):
            written = entry.field.add(name=part, number=number)
            written.label = FieldDescriptorProto.LABEL_OPTIONAL
            self._element(written, kind, f"{path}{{}}")
        return f".{message.name}.{entry.name}"

    def _fill(self, written: FieldDescriptorProto, found: inspect.Type, path: str) -> None:
        if type(found) in _SIMPLE:
            written.type = _SIMPLE[type(found)]
            return
        match found:
            case inspect.StructType():
                self._message(found, path)
                written.type = FieldDescriptorProto.TYPE_MESSAGE
                written.type_name = f".{found.cls.__name__}"
            case inspect.EnumType():
                self._enum(written, found.cls, path)
            case inspect.LiteralType() if all(isinstance(each, str) for each in found.values):
                written.type = FieldDescriptorProto.TYPE_STRING
            case inspect.DateTimeType() if found.tz is not False:
                written.type = FieldDescriptorProto.TYPE_MESSAGE
                written.type_name = TIMESTAMP
                if TIMESTAMP_FILE not in self._file.dependency:
                    self._file.dependency.append(TIMESTAMP_FILE)
            case inspect.TimeType() if found.tz is not True:
                written.type = FieldDescriptorProto.TYPE_STRING
            case _:
                raise refusal(path, f"{described(found)} has no counterpart in Protobuf here")

    def _enum(self, written: FieldDescriptorProto, kind: type[enum.Enum], path: str) -> None:
        values = [member.value for member in kind]
        if all(isinstance(value, int) for value in values):
            written.type = FieldDescriptorProto.TYPE_INT64
            return
        if not all(isinstance(value, str) for value in values):
            raise refusal(path, f"{kind.__name__} is neither of strings nor of integers")
        written.type = FieldDescriptorProto.TYPE_ENUM
        written.type_name = f".{kind.__name__}"
        if self._known(kind, path):
            return
        symbols = [symbol(kind, "UNSPECIFIED"), *(symbol(kind, member.name) for member in kind)]
        for name in symbols:
            if symbols.count(name) > 1:
                raise refusal(path, f"two members of {kind.__name__} are {name}", _ONE_SYMBOL)
        found = self._file.enum_type.add(name=kind.__name__)
        found.value.add(name=symbols[0], number=0)
        for number, name in enumerate(symbols[1:], 1):
            found.value.add(name=name, number=number)

    def _known(self, kind: type, path: str) -> bool:
        """Whether a type was defined before; records it if not."""
        _check_name(kind.__name__, path)
        known = self._named.get(kind.__name__)
        if known is not None and known is not kind:
            raise refusal(path, f"two types are named {kind.__name__}", "rename one of them")
        self._named[kind.__name__] = kind
        return known is not None


def _numbers(struct: inspect.StructType, path: str) -> list[int]:
    given: list[Any] = [unwrapped(field.type)[2].get("number") for field in struct.fields]
    if all(number is None for number in given):
        return list(range(1, len(given) + 1))
    for field, number in zip(struct.fields, given, strict=True):
        within = below(path, field.encode_name)
        if not isinstance(number, int) or not 1 <= number <= HIGHEST_NUMBER:
            raise refusal(
                within,
                f"needs a number from 1 to {HIGHEST_NUMBER}, as its neighbours say theirs",
                'Annotated[T, msgspec.Meta(extra={"number": 7})]',
            )
        if given.count(number) > 1:
            raise refusal(within, f"has the number {number}, which another field has too")
    return given


def _check_name(name: str, path: str) -> None:
    if not _NAME.match(name):
        raise refusal(path, f"{name!r} is no name in Protobuf", "a letter, then letters, digits, _")
