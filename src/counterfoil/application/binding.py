"""Decodes the Struct that a handler takes from path, query string and body.

Each part of the path in braces is a field of the Struct. The other fields come from the query
string where a request has no body (GET, and DELETE, whose body has no meaning that anybody has
agreed on: RFC 9110, section 9.3.5), and from the JSON of the body elsewhere. A body may say once
more what its path says, as one does that was read by GET and is put back; it must not say anything
else, or nobody could tell which of the two is meant.

What is in the path or the query string is text, and is read as what its field is: `7` is a number
for an `int`. In a body it is not: there "7" is no number.
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
"""What a field may be that is read from text."""

Parts = Mapping[str, str]
"""The parts of a path, decoded, by the names that the declared path has for them."""


def fits(declared: str, path: str) -> bool:
    """Whether a request for `path` is for what is declared with the path `declared`."""
    pattern = re.escape(_PART.sub("\0", declared)).replace("\0", "[^/]+")
    return re.fullmatch(pattern, path) is not None


def covers(declared: str, other: str) -> bool:
    """Whether every path that fits the declared path `other` fits `declared` as well."""
    return fits(declared, _PART.sub("\1", other))


def check(what: str, path: str, request: type[msgspec.Struct]) -> None:
    """See that the parts of `path` can be fields of `request`; `what` is declared by them.

    Raises:
        ConfigurationError: a part is no field or there twice, or a field can't be read from text.
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
    """Makes a `request` of the parts of a path and the parameters of a query string.

    What is made raises msgspec's ValidationError where they don't fit.
    """

    def bind(parts: Parts, query: Mapping[str, str]) -> Any:
        return msgspec.convert({**query, **parts}, request, strict=False)

    return bind


def from_body(path: str, request: type[msgspec.Struct]) -> Callable[[Parts, bytes], Any]:
    """Makes a `request` of the parts of a path that fits `path`, and of a body in JSON.

    What is made raises msgspec's ValidationError where they don't fit the Struct or each other, and
    `UNREADABLE` where the body is no JSON.
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
        # Spliced as JSON, so that the Struct's own decoder sees every other member as it was sent.
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
