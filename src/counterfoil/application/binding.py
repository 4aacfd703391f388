"""Decodes a handler's request Struct from path, query string and body.

Each part of the path in braces is a field of the Struct. The other fields come from the query
string of methods without a body (GET, and DELETE, whose body has no defined semantics: RFC 9110,
section 9.3.5), and from the JSON body otherwise. A body may repeat the fields of its path, as one
does that was read by GET and is sent back by PUT. It must not contradict them: it would be unclear
which value is meant.

Values from the path and the query string are text and are converted to their field's type: `7` is
a number for an `int`. Values from a body are not converted: there "7" is not a number.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
from msgspec import inspect

from counterfoil.application.configuration import ConfigurationError

_PART: Final = re.compile(r"{([^}]*)}")
_TEXTUAL: Final = (
    inspect.AnyType,
    inspect.StrType,
    inspect.IntType,
    inspect.FloatType,
    inspect.BoolType,
    inspect.DecimalType,
    inspect.BytesType,
    inspect.UUIDType,
    inspect.DateTimeType,
    inspect.DateType,
    inspect.TimeType,
    inspect.TimeDeltaType,
    inspect.EnumType,
    inspect.LiteralType,
)
"""The types of fields that can be read from text."""

Parts = Mapping[str, str]
"""The decoded parts of a path, by their names in the declared path."""


def fits(declared: str, path: str) -> bool:
    """Whether `path` matches the declared path `declared`."""
    pattern = re.escape(_PART.sub("\0", declared)).replace("\0", "[^/]+")
    return re.fullmatch(pattern, path) is not None


def covers(declared: str, other: str) -> bool:
    """Whether every path that matches `other` also matches `declared`."""
    return fits(declared, _PART.sub("\1", other))


def check(what: str, path: str, request: type[msgspec.Struct]) -> None:
    """Check that the parts of `path` are fields of `request`; `what` names the declaration.

    Raises:
        ConfigurationError: a part is not a field, occurs twice, or can't be read from text.
    """
    names = _PART.findall(path)
    if len(set(names)) < len(names):
        raise ConfigurationError(f"{what} has a part twice", hint="give each a name of its own")
    fields = {each.encode_name: each for each in msgspec.structs.fields(request)}
    for name in names:
        if name not in fields or not name.isidentifier():
            raise ConfigurationError(
                f"{what}: {request.__name__} has no field {name!r}",
                hint="name the parts of the path as the fields of the request",
            )
        if not _is_textual(inspect.type_info(fields[name].type)):
            raise ConfigurationError(
                f"{what}: the field {name!r} of {request.__name__} can't be read from a path",
                hint="make it a str, an int or another type that is a single value",
            )
    if names and request.__struct_config__.array_like:
        raise ConfigurationError(
            f"{what}: {request.__name__} is array_like, and its fields have no names for the path",
            hint="leave array_like out",
        )


def from_address(request: type[msgspec.Struct]) -> Callable[[Parts, Mapping[str, str]], Any]:
    """A function that makes a `request` from the parts of a path and a query string.

    That function raises msgspec's ValidationError if they don't fit.
    """

    def bind(parts: Parts, query: Mapping[str, str]) -> Any:
        return msgspec.convert({**query, **parts}, request, strict=False)

    return bind


def from_body(path: str, request: type[msgspec.Struct]) -> Callable[[Parts, bytes], Any]:
    """A function that makes a `request` from the parts of `path` and a JSON body.

    That function raises msgspec's ValidationError if they don't fit the Struct or contradict each
    other, and `UNREADABLE` if the body is not JSON.
    """
    decode = msgspec.json.Decoder(request).decode
    names = _PART.findall(path)
    if not names:
        return lambda _, body: decode(body)
    types = {each.encode_name: each.type for each in msgspec.structs.fields(request)}
    of_path = msgspec.defstruct("OfPath", [(name, types[name]) for name in names])
    again = msgspec.json.Decoder(of_path).decode
    members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode

    def bind(parts: Parts, body: bytes) -> Any:
        bound = msgspec.convert(parts, of_path, strict=False)
        said = members(body)
        # Spliced as JSON, so that the Struct's own decoder sees all other members as sent.
        spliced = {name: msgspec.Raw(msgspec.json.encode(getattr(bound, name))) for name in names}
        repeated = {name: said[name] for name in names if name in said}
        if repeated and again(msgspec.json.encode({**spliced, **repeated})) != bound:
            raise msgspec.ValidationError(
                f"the body says another {' or '.join(repeated)} than the path: leave it out"
            )
        return decode(msgspec.json.encode({**said, **spliced}))

    return bind


def _is_textual(kind: inspect.Type) -> bool:
    if isinstance(kind, inspect.Metadata):
        return _is_textual(kind.type)
    if isinstance(kind, inspect.UnionType):
        return any(_is_textual(each) for each in kind.types)
    return isinstance(kind, _TEXTUAL)
