"""Converts structs to Protobuf messages and back."""

import datetime as dt
import enum
import uuid
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final

from google.protobuf import message_factory, timestamp_pb2
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from msgspec import inspect

from counterfoil.events.errors import InvalidEvent, UndecodableEvent
from counterfoil.events.schemas.protobuf_schema import REPEATED
from counterfoil.events.schemas.structs import struct_of, unwrapped

_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND: Final = dt.timedelta(microseconds=1)
_SECOND: Final = 1_000_000
Convert = Callable[[Any], Any]


class StructMessage:
    """Converts a struct to a message, and a message to a dict for msgspec."""

    def __init__(self, kind: type[Any]) -> None:
        self.kind = kind
        self.fields: list[_Field] = []

    def make(self, value: Any) -> Any:
        """The message of a struct.

        Raises:
            InvalidEvent: names the field that doesn't fit.
        """
        message = self.kind()
        for field in self.fields:
            try:
                field.put(message, getattr(value, field.attribute))
            except InvalidEvent as error:
                raise InvalidEvent(f"{field.name}.{error.args[0]}") from error
            except (TypeError, ValueError, AttributeError, OverflowError) as error:
                # The library's message is only in the cause: it may quote the value.
                raise InvalidEvent(f"{field.name}: does not fit the schema") from error
        return message

    def take(self, message: Any) -> dict[str, Any]:
        """The fields that are present in a message.

        Raises:
            UndecodableEvent: a member of an enum that this type does not know.
        """
        found: dict[str, Any] = {}
        for field in self.fields:
            field.take(message, found)
        return found


def message_of(event: type, file: FileDescriptorProto) -> StructMessage:
    """The first message of a file, which was derived from the struct."""
    pool = DescriptorPool()
    pool.AddSerializedFile(timestamp_pb2.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(file.SerializeToString())
    return _Messages(pool).of(struct_of(event))


class _Messages:
    """The messages of a file, each created once; they may be recursive."""

    def __init__(self, pool: DescriptorPool) -> None:
        self._pool = pool
        self._made: dict[type, StructMessage] = {}
        stamp = pool.FindMessageTypeByName("google.protobuf.Timestamp")
        self._timestamp: Any = message_factory.GetMessageClass(stamp)

    def of(self, struct: inspect.StructType) -> StructMessage:
        if struct.cls not in self._made:
            descriptor = self._pool.FindMessageTypeByName(struct.cls.__name__)
            made = StructMessage(message_factory.GetMessageClass(descriptor))
            self._made[struct.cls] = made
            made.fields += [self._field(field) for field in struct.fields]
        return self._made[struct.cls]

    def _field(self, field: inspect.Field) -> "_Field":
        found, optional, _ = unwrapped(field.type)
        if isinstance(found, REPEATED):
            return _List(field, *self._conversions(found.item_type))
        if isinstance(found, inspect.DictType):
            return _Map(field, *self._conversions(found.value_type))
        return _Single(field, *self._conversions(found), optional=optional)

    def _conversions(self, declared: inspect.Type) -> tuple[Convert, Convert, bool]:
        """To a message and from it, and whether the value is a message itself."""
        found = unwrapped(declared)[0]
        match found:
            case inspect.StructType():
                within = self.of(found)
                return within.make, within.take, True
            case inspect.DateTimeType():
                return self._stamp, _time_of, True
            case inspect.EnumType() if all(isinstance(each.value, str) for each in found.cls):
                return *_enum_numbers(found.cls), False
            case inspect.EnumType():
                return _value_of, _same, False
            case inspect.DecimalType():
                return _text_of(Decimal), _same, False
            case inspect.UUIDType():
                return _text_of(uuid.UUID), _same, False
            case inspect.DateType():
                return _text_of(dt.date), _same, False
            case inspect.TimeType():
                return _time_of_day, _same, False
            case _:
                return _same, _same, False

    def _stamp(self, value: dt.datetime) -> Any:
        if value.tzinfo is None:
            raise ValueError("no time zone")
        seconds, rest = divmod((value - _EPOCH) // _MICROSECOND, _SECOND)
        return self._timestamp(seconds=seconds, nanos=rest * 1_000)


class _Field:
    """One field of a struct, in both directions."""

    def __init__(self, field: inspect.Field, to: Convert, back: Convert, is_message: bool) -> None:
        self.attribute = field.name
        self.name = field.encode_name
        self._to = to
        self._back = back
        self._is_message = is_message

    def put(self, message: Any, value: Any) -> None:
        """Set the field of a message."""
        raise NotImplementedError

    def take(self, message: Any, found: dict[str, Any]) -> None:
        """Add the field to `found` if the message has it."""
        raise NotImplementedError


class _Single(_Field):
    def __init__(
        self,
        field: inspect.Field,
        to: Convert,
        back: Convert,
        is_message: bool,
        *,
        optional: bool,
    ) -> None:
        super().__init__(field, to, back, is_message)
        self._optional = optional

    def put(self, message: Any, value: Any) -> None:
        if value is None and self._optional:
            return
        if self._is_message:
            getattr(message, self.name).CopyFrom(self._to(value))
        else:
            setattr(message, self.name, self._to(value))

    def take(self, message: Any, found: dict[str, Any]) -> None:
        if message.HasField(self.name):
            found[self.name] = self._back(getattr(message, self.name))
        elif self._optional:
            found[self.name] = None


class _List(_Field):
    def put(self, message: Any, value: Any) -> None:
        getattr(message, self.name).extend(map(self._to, value))

    def take(self, message: Any, found: dict[str, Any]) -> None:
        found[self.name] = list(map(self._back, getattr(message, self.name)))


class _Map(_Field):
    def put(self, message: Any, value: Any) -> None:
        entries = getattr(message, self.name)
        for key, each in value.items():
            if self._is_message:
                entries[key].CopyFrom(self._to(each))
            else:
                entries[key] = self._to(each)

    def take(self, message: Any, found: dict[str, Any]) -> None:
        entries = getattr(message, self.name)
        found[self.name] = {key: self._back(entries[key]) for key in entries}


def _same(value: Any) -> Any:
    return value


def _value_of(value: enum.Enum) -> Any:
    return value.value


def _text_of(kind: type) -> Convert:
    def text(value: Any) -> str:
        if type(value) is not kind:
            raise TypeError(f"no {kind.__name__}")
        return str(value)

    return text


def _time_of_day(value: dt.time) -> str:
    if value.tzinfo is not None:
        raise ValueError("a time zone would be lost")
    return value.isoformat()


def _time_of(stamp: Any) -> dt.datetime:
    return _EPOCH + dt.timedelta(seconds=stamp.seconds, microseconds=stamp.nanos // 1_000)


def _enum_numbers(kind: type[enum.Enum]) -> tuple[Convert, Convert]:
    numbers = {member: number for number, member in enumerate(kind, 1)}
    values = {number: member.value for member, number in numbers.items()}

    def number_of(value: Any) -> int:
        if value not in numbers:
            raise TypeError(f"no {kind.__name__}")
        return numbers[value]

    def value_of(number: int) -> Any:
        if number not in values:
            raise UndecodableEvent(f"{kind.__name__} knows no member {number}")
        return values[number]

    return number_of, value_of
