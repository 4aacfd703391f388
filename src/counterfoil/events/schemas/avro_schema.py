"""Derives the Avro schema of a struct; rejects what Avro can't represent exactly.

Names are the struct's own, without a namespace, so that a class may move to another module. Fields
keep their order and their encoded names (`rename=`).

| type | Avro |
|---|---|
| `int`, an enum of ints | `long`; encoding rejects numbers of more than 64 bits |
| `float` | `double` |
| `str`, `Literal` of strings | `string` |
| `bytes`, `bool` | `bytes`, `boolean` |
| `Decimal` with `Meta(extra={"precision": p, "scale": s})` | `bytes`, logical type `decimal` |
| `datetime` with a zone | `long`, `timestamp-micros`; decoded in UTC |
| `date`, `time` without a zone | `int`, `date`; `long`, `time-micros` |
| `UUID` | `string`, `uuid` |
| an enum of strings that are valid Avro names | `enum` |
| `list`, `set`, `frozenset`, `tuple[T, ...]` | `array` |
| `dict[str, T]` | `map` |
| another struct | `record` |
| `T | None` | a union with `null` |

Source: Apache Avro specification 1.12.
"""

import datetime as dt
import enum
import math
import re
import uuid
from collections.abc import Mapping
from decimal import Decimal
from types import MappingProxyType
from typing import Any, Final, cast

from msgspec import inspect

from counterfoil.events.schemas.structs import (
    below,
    check_struct,
    described,
    refusal,
    struct_of,
    unwrapped,
)

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_EPOCH: Final = dt.date(1970, 1, 1)
_SIMPLE: Final[Mapping[type[inspect.Type], object]] = MappingProxyType(
    {
        inspect.IntType: "long",
        inspect.FloatType: "double",
        inspect.StrType: "string",
        inspect.BytesType: "bytes",
        inspect.BoolType: "boolean",
        inspect.DateType: {"type": "int", "logicalType": "date"},
        inspect.UUIDType: {"type": "string", "logicalType": "uuid"},
    }
)
PRECISION: Final = 38
"""Maximum digits of a decimal: what databases and Parquet store in 128 bits."""
_NO_DEFAULT: Final = object()


def avro_schema(event: type) -> dict[str, Any]:
    """The schema of a struct as the JSON document for registries.

    Raises:
        UnmappableType: names the field that can't be mapped.
    """
    return _Derivation().record(struct_of(event), "")


class _Derivation:
    """One schema; a named type is defined at its first use, and referred to by name afterwards."""

    def __init__(self) -> None:
        self._named: dict[str, type] = {}

    def record(self, struct: inspect.StructType, path: str) -> Any:
        """A record, or the name of one that was defined before."""
        check_struct(struct, path)
        if self._known(struct.cls, path):
            return struct.cls.__name__
        fields = [self._field(field, below(path, field.encode_name)) for field in struct.fields]
        return {"type": "record", "name": struct.cls.__name__, "fields": fields}

    def _field(self, field: inspect.Field, path: str) -> dict[str, Any]:
        _check_name(field.encode_name, path)
        found, optional, extra = unwrapped(field.type)
        schema = self._inner(found, path, extra)
        default = _default(field, schema)
        if optional:
            # A default belongs to a union's first branch.
            null_first = default is None or default is _NO_DEFAULT
            schema = ["null", schema] if null_first else [schema, "null"]
        written = {"name": field.encode_name, "type": schema}
        return written if default is _NO_DEFAULT else {**written, "default": default}

    def _element(self, declared: inspect.Type, path: str) -> Any:
        found, optional, extra = unwrapped(declared)
        schema = self._inner(found, path, extra)
        return ["null", schema] if optional else schema

    def _inner(self, found: inspect.Type, path: str, extra: Mapping[str, Any]) -> Any:
        if type(found) in _SIMPLE:
            return _SIMPLE[type(found)]
        match found:
            case inspect.StructType():
                return self.record(found, path)
            case inspect.EnumType():
                return self._enum(found.cls, path)
            case inspect.LiteralType() if all(isinstance(each, str) for each in found.values):
                return "string"
            case inspect.DecimalType():
                return _decimal(extra, path)
            case inspect.DateTimeType() if found.tz is not False:
                return {"type": "long", "logicalType": "timestamp-micros"}
            case inspect.TimeType() if found.tz is not True:
                return {"type": "long", "logicalType": "time-micros"}
            case (
                inspect.ListType()
                | inspect.SetType()
                | inspect.FrozenSetType()
                | inspect.VarTupleType()
            ):
                return {"type": "array", "items": self._element(found.item_type, f"{path}[]")}
            case inspect.DictType() if isinstance(found.key_type, inspect.StrType):
                return {"type": "map", "values": self._element(found.value_type, f"{path}{{}}")}
            case _:
                raise refusal(path, f"{described(found)} has no counterpart in Avro")

    def _enum(self, kind: type[enum.Enum], path: str) -> Any:
        values = [member.value for member in kind]
        if all(isinstance(value, int) for value in values):
            return "long"
        for value in values:
            _check_name(value, path)
        if self._known(kind, path):
            return kind.__name__
        return {"type": "enum", "name": kind.__name__, "symbols": values}

    def _known(self, kind: type, path: str) -> bool:
        """Whether a type was defined before; records it if not."""
        _check_name(kind.__name__, path)
        known = self._named.get(kind.__name__)
        if known is not None and known is not kind:
            raise refusal(
                path,
                f"two types are named {kind.__name__}, in {known.__module__} and {kind.__module__}",
                "rename one of them",
            )
        self._named[kind.__name__] = kind
        return known is not None


def _check_name(name: object, path: str) -> None:
    if not isinstance(name, str) or not _NAME.match(name):
        raise refusal(path, f"{name!r} is no name in Avro", "letters, digits and _, no digit first")


def _decimal(extra: Mapping[str, Any], path: str) -> dict[str, Any]:
    precision, scale = extra.get("precision"), extra.get("scale", 0)
    if not (
        isinstance(precision, int) and isinstance(scale, int) and 0 <= scale <= precision
    ) or not (0 < precision <= PRECISION):
        raise refusal(
            path,
            f"a decimal needs a precision of 1 to {PRECISION} digits, and a scale within it",
            'Annotated[Decimal, msgspec.Meta(extra={"precision": 18, "scale": 2})]',
        )
    return {"type": "bytes", "logicalType": "decimal", "precision": precision, "scale": scale}


def _default(field: inspect.Field, schema: Any) -> Any:
    """A field's default as JSON, if it is constant and can be represented.

    It is for registries and foreign readers: ours use the struct's own default.
    """
    value: Any = field.default
    if field.default_factory in (list, set, frozenset, tuple):
        value = []
    elif field.default_factory is dict:
        value = {}
    match value:
        case enum.Enum():
            return value.value
        case None | bool() | int() | str():
            return value
        case list() | dict() if not value:
            return cast("list[Any] | dict[str, Any]", value)
        case float() if math.isfinite(value):
            return value
        case bytes():
            return value.decode("latin-1")
        case uuid.UUID():
            return str(value)
        case Decimal():
            unscaled = int(value.scaleb(schema["scale"]))
            size = unscaled.bit_length() // 8 + 1
            return unscaled.to_bytes(size, "big", signed=True).decode("latin-1")
        case dt.date() if not isinstance(value, dt.datetime):
            return (value - _EPOCH).days
        case _:
            return _NO_DEFAULT
