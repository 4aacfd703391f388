"""Compatibility of two Avro schemas, with the offending field.

These are the rules of Avro's schema resolution: fields are matched by name, a field that only the
reader has needs a default, one that only the writer has is ignored, and a type may be read as a
wider one. Beyond the specification, a logical type must not change: the bytes of a decimal with
another scale are another amount.

Source: Apache Avro specification 1.12, "Schema Resolution".
"""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final, TypeGuard

from counterfoil.events.schemas.schema import Incompatibility
from counterfoil.events.schemas.structs import below

_WIDER: Final[Mapping[str, frozenset[str]]] = MappingProxyType(
    {
        "int": frozenset({"long", "float", "double"}),
        "long": frozenset({"float", "double"}),
        "float": frozenset({"double"}),
        "string": frozenset({"bytes"}),
        "bytes": frozenset({"string"}),
    }
)
_LOGICAL: Final = ("logicalType", "precision", "scale")


def incompatibilities(reader: Any, writer: Any) -> list[Incompatibility]:
    """Why `reader` can't read what was written with `writer`, both as JSON documents."""
    return list(_Comparison(_named(reader), _named(writer)).compare(reader, writer, ""))


class _Comparison:
    def __init__(self, readers: Mapping[str, Any], writers: Mapping[str, Any]) -> None:
        self._readers = readers
        self._writers = writers
        self._seen: set[tuple[str, str]] = set()
        """Pairs of records that were compared: records may be recursive."""

    def compare(self, reader: Any, writer: Any, path: str) -> Iterator[Incompatibility]:
        reader = self._readers.get(_key(reader), reader)
        writer = self._writers.get(_key(writer), writer)
        if is_union(writer):
            for branch in writer:
                yield from self.compare(reader, branch, path)
            return
        if is_union(reader):
            branches = [list(self.compare(branch, writer, path)) for branch in reader]
            if all(branches):
                yield from min(branches, key=_unlike)
            return
        was, now = kind_of(writer), kind_of(reader)
        another_meaning = _logical(reader) != _logical(writer)
        if another_meaning or (was != now and now not in _WIDER.get(was, ())):
            said = f"was {_said(writer)} and is {_said(reader)}"
            yield Incompatibility(path, said, unnoticed=another_meaning)
            return
        if was != now:
            return
        match now:
            case "record":
                yield from self._records(reader, writer, path)
            case "enum":
                yield from _enums(reader, writer, path)
            case "array":
                yield from self.compare(reader["items"], writer["items"], f"{path}[]")
            case "map":
                yield from self.compare(reader["values"], writer["values"], f"{path}{{}}")
            case "fixed" if reader["size"] != writer["size"]:
                yield Incompatibility(path, f"was {writer['size']} bytes, is {reader['size']}")
            case _:
                pass

    def _records(self, reader: Any, writer: Any, path: str) -> Iterator[Incompatibility]:
        was, now = name_of(writer), name_of(reader)
        if was != now:
            yield Incompatibility(path, f"the record {was} has another name, {now}")
            return
        if (now, was) in self._seen:
            return
        self._seen.add((now, was))
        written = {field["name"]: field for field in writer["fields"]}
        for field in reader["fields"]:
            name = field["name"]
            if name in written:
                yield from self.compare(field["type"], written[name]["type"], below(path, name))
            elif "default" not in field:
                yield Incompatibility(
                    below(path, name), "has no default, and events without it are to be read"
                )


def _enums(reader: Any, writer: Any, path: str) -> Iterator[Incompatibility]:
    if name_of(reader) != name_of(writer):
        rule = f"the enum {name_of(writer)} has another name, {name_of(reader)}"
        yield Incompatibility(path, rule)
    unknown = [symbol for symbol in writer["symbols"] if symbol not in reader["symbols"]]
    if unknown and "default" not in reader:
        yield Incompatibility(path, f"knows nothing of the symbols {', '.join(unknown)}")


def is_union(schema: Any) -> TypeGuard[list[Any]]:
    """Whether a schema is a union: a JSON array of its branches."""
    return isinstance(schema, list)


def kind_of(schema: Any) -> str:
    """The name of a schema's type, such as `record`."""
    kind: str = schema if isinstance(schema, str) else schema["type"]
    return kind


def name_of(schema: Any) -> str:
    """The name of a named type, without its namespace: named types are matched by it."""
    return str(schema["name"]).rpartition(".")[2]


def named_types(schema: Any) -> Iterator[Any]:
    """All records, enums and fixed types that are defined in a schema."""
    if isinstance(schema, str):
        return
    if is_union(schema):
        for branch in schema:
            yield from named_types(branch)
        return
    match schema["type"]:
        case "record":
            yield schema
            for field in schema["fields"]:
                yield from named_types(field["type"])
        case "enum" | "fixed":
            yield schema
        case "array":
            yield from named_types(schema["items"])
        case "map":
            yield from named_types(schema["values"])
        case inner:
            yield from named_types(inner)


def _named(schema: Any) -> dict[str, Any]:
    """Named types by each of their possible names."""
    found: dict[str, Any] = {}
    for each in named_types(schema):
        found[name_of(each)] = each
        found[str(each["name"])] = each
        if "namespace" in each:
            found[f"{each['namespace']}.{each['name']}"] = each
    return found


def _key(schema: Any) -> str:
    return schema if isinstance(schema, str) else ""


def _logical(schema: Any) -> tuple[Any, ...]:
    if isinstance(schema, str) or "logicalType" not in schema:
        return ()
    return tuple(schema.get(each) for each in _LOGICAL)


def _said(schema: Any) -> str:
    """A type's description for errors."""
    if not _logical(schema):
        return kind_of(schema)
    if schema["logicalType"] == "decimal":
        return f"decimal({schema['precision']}, {schema.get('scale', 0)})"
    return str(schema["logicalType"])


def _unlike(found: list[Incompatibility]) -> tuple[int, int]:
    """How far a branch of a union is from what was written: the nearest explains most."""
    another_type = sum(" and is " in each.rule for each in found)
    return another_type, len(found)
