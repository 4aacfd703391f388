"""Inspection of struct types, shared by both binary formats.

A type is inspected once, when its topic is declared. A field that the format can't represent
without loss is rejected then, by name, and not at runtime by an event.
"""

import datetime as dt
from collections.abc import Mapping
from typing import Any, cast

from msgspec import inspect

from counterfoil.events.errors import InvalidEvent, UnmappableType


def struct_of(kind: object, path: str = "") -> inspect.StructType:
    """The fields of a struct.

    Raises:
        UnmappableType: it is no struct, has no fields, or is not encoded as its fields.
    """
    try:
        found = inspect.type_info(kind)
    except TypeError as error:
        raise refusal(path, str(error)) from error
    if not isinstance(found, inspect.StructType):
        raise refusal(path, f"{getattr(kind, '__name__', kind)} is no msgspec.Struct")
    check_struct(found, path)
    return found


def check_struct(struct: inspect.StructType, path: str) -> None:
    """Check that a struct is encoded as its fields.

    Raises:
        UnmappableType: names the option that prevents it.
    """
    name = struct.cls.__name__
    configuration = struct.cls.__struct_config__
    if struct.tag is not None:
        raise refusal(path, f"{name} has a tag, which no field holds", "leave tag= out")
    if struct.array_like:
        raise refusal(path, f"{name} is array_like", "leave array_like= out")
    if configuration.omit_defaults:
        raise refusal(path, f"{name} leaves out defaults", "leave omit_defaults= out")
    if not struct.fields:
        raise refusal(path, f"{name} has no fields", "give it one")


def unwrapped(found: inspect.Type) -> tuple[inspect.Type, bool, Mapping[str, Any]]:
    """A type without `| None`, whether it had that, and its `msgspec.Meta(extra=...)`.

    `extra` may be on the type or on the optional type; the former wins.
    """
    extra: dict[str, Any] = {}
    optional = False
    while True:
        match found:
            case inspect.Metadata():
                extra = {**extra, **(found.extra or {})}
                found = found.type
            case inspect.UnionType():
                some = [each for each in found.types if not isinstance(each, inspect.NoneType)]
                if len(some) != 1 or optional:
                    return found, optional, extra
                optional, found = True, some[0]
            case _:
                return found, optional, extra


def refusal(path: str, why: str, hint: str = "") -> UnmappableType:
    """The error for a field, or for the type as a whole if there is no path."""
    known = "docs/schemas.md says what is mapped; JSON takes whatever msgspec does"
    return UnmappableType(f"{path}: {why}" if path else why, hint=hint or known)


def described(found: inspect.Type) -> str:
    """A type's name for errors."""
    return type(found).__name__.removesuffix("Type").lower()


def below(path: str, field: str) -> str:
    """The path of a field below `path`."""
    return f"{path}.{field}" if path else field


def check_times(value: object, path: str = "") -> None:
    """Check that datetimes have a time zone and times of day don't: formats can't keep more.

    Raises:
        InvalidEvent: names the field.
    """
    match value:
        case dt.datetime() if value.tzinfo is None:
            raise InvalidEvent(f"{path}: {value} has no time zone", hint="use datetime.now(UTC)")
        case dt.time() if value.tzinfo is not None:
            raise InvalidEvent(f"{path}: {value} has a time zone, which would be lost")
        case dict():
            for name, each in cast("dict[str, object]", value).items():
                check_times(each, below(path, name))
        case list():
            for number, each in enumerate(cast("list[object]", value)):
                check_times(each, f"{path}[{number}]")
        case _:
            pass
