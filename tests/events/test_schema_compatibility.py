"""What the rules of compatibility allow can be read, and what they forbid can not."""

import io
from typing import Any

import fastavro
import pytest
from fastavro.read import SchemaResolutionError
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from hypothesis import example, given, settings
from hypothesis import strategies as st

from counterfoil.events.schemas.avro_compatibility import incompatibilities

SIMPLE = st.sampled_from(["null", "boolean", "int", "long", "float", "double", "bytes", "string"])
ENUMS = st.lists(st.sampled_from("abc"), min_size=1, unique=True).map(
    lambda symbols: {"type": "enum", "name": "E", "symbols": symbols}
)
VALUES: dict[str, Any] = {
    "null": None,
    "boolean": True,
    "int": 3,
    "long": 3,
    "float": 3.0,
    "double": 3.0,
    "bytes": b"x",
    "string": "x",
}


def records(types: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    fields = st.dictionaries(st.sampled_from("xyz"), types, max_size=3)
    return fields.map(
        lambda found: {
            "type": "record",
            "name": "R",
            "fields": [{"name": name, "type": _apart(name, kind)} for name, kind in found.items()],
        }
    )


def _apart(field: str, kind: Any) -> Any:
    """An enum for each field: a schema has one of a name."""
    return {**kind, "name": f"E{field}"} if "symbols" in kind else kind


INNER = st.one_of(
    SIMPLE,
    ENUMS,
    SIMPLE.map(lambda items: {"type": "array", "items": items}),
    SIMPLE.map(lambda values: {"type": "map", "values": values}),
    st.lists(SIMPLE, min_size=1, max_size=3, unique=True),
)
SCHEMAS = records(INNER)


def a_value(schema: Any, turn: int) -> Any:
    """A value of a schema; in some turns every branch and symbol comes."""
    if isinstance(schema, str):
        return VALUES[schema]
    if isinstance(schema, list):
        branch = schema[turn % len(schema)]
        name = branch if isinstance(branch, str) else branch.get("name", branch["type"])
        return name, a_value(branch, turn)  # a small long would be written as an int beside it
    match schema["type"]:
        case "enum":
            return schema["symbols"][turn % len(schema["symbols"])]
        case "array":
            return [a_value(schema["items"], turn)]
        case "map":
            return {"k": a_value(schema["values"], turn)}
        case _:
            return {each["name"]: a_value(each["type"], turn) for each in schema["fields"]}


def reads(reader: Any, writer: Any, turn: int) -> bool:
    """Whether fastavro, which resolves by the specification, reads a value of the writer."""
    buffer = io.BytesIO()
    written = fastavro.parse_schema(writer)
    fastavro.schemaless_writer(buffer, written, a_value(writer, turn))
    buffer.seek(0)
    try:
        fastavro.schemaless_reader(buffer, written, fastavro.parse_schema(reader))
    except SchemaResolutionError:
        return False
    return True


@settings(max_examples=400, deadline=None)
@given(SCHEMAS, SCHEMAS)
@example(["int"], ["int", "long"])
def test_what_is_compatible_is_read_and_what_is_not_is_refused_by_an_avro_reader(
    reader: Any, writer: Any
) -> None:
    found = incompatibilities(reader, writer)
    turns = range(6)  # a multiple of the numbers of branches and symbols
    assert all(reads(reader, writer, turn) for turn in turns) == (not found), found


def decimal(precision: int, scale: int) -> dict[str, Any]:
    kind = {"type": "bytes", "logicalType": "decimal"}
    return {**kind, "precision": precision, "scale": scale}


def record(kind: Any, name: str = "R") -> dict[str, Any]:
    return {"type": "record", "name": name, "fields": [{"name": "x", "type": kind}]}


@pytest.mark.parametrize(
    ("reader", "writer", "said"),
    [
        (decimal(9, 3), decimal(9, 2), "x: was decimal(9, 2) and is decimal(9, 3)"),
        ("bytes", decimal(9, 2), "x: was decimal(9, 2) and is bytes"),
        (["null", "long"], ["null", "string"], "x: was string and is null"),
        (
            {"type": "array", "items": record("long", "L")},
            {"type": "array", "items": record("string", "L")},
            "x[].x: was string and is long",
        ),
        (record("long", "A"), record("long", "B"), "x: the record B has another name, A"),
    ],
)
def test_an_incompatibility_names_its_field_and_its_rule(
    reader: Any, writer: Any, said: str
) -> None:
    assert [str(each) for each in incompatibilities(record(reader), record(writer))] == [said]


def test_a_record_that_holds_itself_is_compared_once() -> None:
    tree = record(["null", "R"])
    assert incompatibilities(tree, tree) == []


def test_a_name_is_compared_without_its_namespace() -> None:
    ours = record({"type": "array", "items": record("long", "L")})
    theirs = {**record({"type": "array", "items": record("int", "shop.L")}), "namespace": "shop"}
    assert incompatibilities(ours, theirs) == []


def test_a_file_without_a_message_is_compatible_with_nothing() -> None:
    from counterfoil.events.schemas.protobuf_compatibility import incompatibilities as compare

    assert [str(each) for each in compare(FileDescriptorProto(), FileDescriptorProto())] == [
        ": the file has no message"
    ]
