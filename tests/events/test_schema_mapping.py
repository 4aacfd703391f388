"""A struct to bytes and back, in each format, exactly; and what no format can hold is refused."""

import datetime as dt
import enum
import io
import json
from decimal import Decimal
from typing import Annotated, Any

import fastavro
import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from counterfoil.events import (
    EventsError,
    InvalidEvent,
    Topic,
    UndecodableEvent,
    UnmappableType,
)
from counterfoil.events.schemas import Format, Schema, wire
from counterfoil.events.schemas.avro_schema import avro_schema
from counterfoil.events.topics import declare_schemas

from .payments import FORMATS, PAYMENT, PAYMENTS, Line, Payment

each_format = pytest.mark.parametrize("kind", FORMATS)


class Remembered:
    """A registry in memory, in which every topic has what it was given last."""

    def __init__(self) -> None:
        self.known: list[Schema] = []
        self.asked = 0

    def find(self, topic: str, schema: Schema) -> int | None:
        return self.known.index(schema) if schema in self.known else None

    def latest(self, topic: str) -> Schema | None:
        return self.known[-1] if self.known else None

    def register(self, topic: str, schema: Schema, *, after: Schema | None) -> int:
        self.known.append(schema)
        return len(self.known) - 1

    def schema(self, schema_id: int) -> Schema | None:
        self.asked += 1
        return self.known[schema_id] if schema_id < len(self.known) else None


def topic(event: Any, kind: Format, registry: Remembered | None = None, **more: Any) -> Topic[Any]:
    made = Topic("any", event, format=kind, **more)
    declare_schemas([made], registry or Remembered())
    return made


AVRO, PROTOBUF = (topic(Payment, kind) for kind in FORMATS)


MIDNIGHT = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


@settings(max_examples=100, deadline=None)
@given(PAYMENTS)
@example(PAYMENT)
def test_what_was_encoded_comes_back(payment: Payment) -> None:
    for each in (AVRO, PROTOBUF):
        found = each.decode(each.encode(payment))
        assert found == payment
        assert str(found.price) == str(payment.price), "with its scale"


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300), st.integers(0, 300), st.booleans())
def test_garbage_is_refused_and_nothing_else_happens(junk: bytes, cut: int, whole: bool) -> None:
    for each in (AVRO, PROTOBUF):
        value = each.encode(PAYMENT)
        data = value[:cut] + junk + (b"" if whole else value[cut + len(junk) :])
        try:
            found = each.decode(data)
        except UndecodableEvent:
            continue
        assert isinstance(found, Payment), "some junk is an event"


def test_another_decoder_reads_what_was_written_in_avro() -> None:
    data = AVRO.encode(PAYMENT)
    found: Any = fastavro.schemaless_reader(
        io.BytesIO(data[5:]), fastavro.parse_schema(avro_schema(Payment)), None
    )
    assert (data[:5], found["eventId"], found["price"]) == (b"\0" * 5, 1, Decimal("12.30"))
    assert found["lines"] == [{"sku": "a", "number": 2, "gift": False}]


def test_the_schema_says_what_the_struct_does() -> None:
    class Small(msgspec.Struct):
        amount: Annotated[Decimal, msgspec.Meta(extra={"precision": 4, "scale": 2})]
        note: str | None = None
        kind: str | None = "sale"
        line: Line = msgspec.field(default_factory=lambda: Line("x"))
        price: Annotated[Decimal, msgspec.Meta(extra={"precision": 4, "scale": 2})] = Decimal("-1")

    assert avro_schema(Small) == {
        "type": "record",
        "name": "Small",
        "fields": [
            {
                "name": "amount",
                "type": {"type": "bytes", "logicalType": "decimal", "precision": 4, "scale": 2},
            },
            {"name": "note", "type": ["null", "string"], "default": None},
            {"name": "kind", "type": ["string", "null"], "default": "sale"},
            {
                "name": "line",
                "type": {
                    "type": "record",
                    "name": "Line",
                    "fields": [
                        {"name": "sku", "type": "string"},
                        {"name": "number", "type": "long", "default": 1},
                        {"name": "gift", "type": "boolean", "default": False},
                    ],
                },
            },
            {
                "name": "price",
                "type": {"type": "bytes", "logicalType": "decimal", "precision": 4, "scale": 2},
                "default": "\u009c",
            },
        ],
    }


class Mixed(enum.Enum):
    ONE = 1
    TWO = "two"


class Spaced(enum.Enum):
    ONE = "with space"


def one(name: str, declared: Any, default: Any = msgspec.NODEFAULT, **options: Any) -> type:
    field = (name, declared) if default is msgspec.NODEFAULT else (name, declared, default)
    return msgspec.defstruct("Event", [field], **options)


BOTH = [
    (one("x", Any), "x: any"),
    (one("x", int | str), "x: union"),
    (one("x", list[dict[str, Any]]), r"x\[\]{}: any|x\[\]: dict"),
    (one("x", tuple[int, str]), "x: tuple"),
    (one("x", Mixed), "x"),
    (one("x", msgspec.Raw), "x: raw"),
    (one("x", dt.timedelta), "x: timedelta"),
    (one("x", Annotated[dt.datetime, msgspec.Meta(tz=False)]), "x: datetime"),
    (one("é", int), "é: 'é' is no name"),
    (one("x", int, tag=True), "Event has a tag"),
    (one("x", int, array_like=True), "Event is array_like"),
    (one("x", int, 1, omit_defaults=True), "Event leaves out defaults"),
    (msgspec.defstruct("Event", []), "Event has no fields"),
    (one("x", one("y", int)), "x: two types are named Event"),
    (dict, "dict is no msgspec.Struct"),
]


@each_format
@pytest.mark.parametrize(("event", "said"), BOTH)
def test_a_type_that_can_not_be_held_is_refused_with_its_field(
    event: type, said: str, kind: Format
) -> None:
    with pytest.raises(UnmappableType, match=said):
        Topic("any", event, format=kind)


@pytest.mark.parametrize(
    ("event", "said"),
    [
        (one("x", Decimal), "x: a decimal needs a precision"),
        (one("x", Annotated[Decimal, msgspec.Meta(extra={"precision": 39})]), "x: a decimal"),
        (one("x", dict[int, str]), "x: dict"),
        (one("x", Spaced), "x: 'with space' is no name"),
    ],
)
def test_what_avro_alone_can_not_hold_is_refused(event: type, said: str) -> None:
    with pytest.raises(UnmappableType, match=said):
        Topic("any", event, format="avro")


def numbered(number: Any) -> Any:
    return Annotated[int, msgspec.Meta(extra={"number": number})]


@pytest.mark.parametrize(
    ("event", "said"),
    [
        (one("x", list[int | None]), r"x\[\]: a list or a map holds no None"),
        (one("x", list[int] | None, None), "x: None can't be told from empty"),
        (one("x", list[list[int]]), r"x\[\]: list"),
        (one("x", dict[float, int]), "x: keys are float"),
        (one("x", int | None, 7), "x: None can't be told from the default"),
        (one("x", enum.Enum("Kind", {"UNSPECIFIED": "u"})), "x: two members of Kind are KIND_UNSP"),
        (one("x", enum.Enum("Kind", {"a": "x", "A": "y"})), "x: two members of Kind are KIND_A"),
        (one("x", numbered(0)), "x: needs a number"),
        (one("x", numbered(19_000)), "x: needs a number"),
        (msgspec.defstruct("Event", [("x", numbered(2)), ("y", int)]), "y: needs a number"),
        (msgspec.defstruct("Event", [("x", numbered(2)), ("y", numbered(2))]), "x: has the numb"),
    ],
)
def test_what_protobuf_alone_can_not_hold_is_refused(event: type, said: str) -> None:
    with pytest.raises(UnmappableType, match=said):
        Topic("any", event, format="protobuf")


@each_format
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"event_id": 2**63}, "eventId"),
        ({"lines": [Line("a", 2**63)]}, "number"),
        ({"lines": [Line(3)]}, "sku"),  # type: ignore[arg-type]
        ({"paid_at": dt.datetime(2026, 1, 1)}, "paidAt"),
        ({"opens": dt.time(1, tzinfo=dt.UTC)}, "opens"),
        ({"day": None}, "day"),
        ({"day": MIDNIGHT}, "day"),
        ({"before": msgspec.structs.replace(PAYMENT, day=MIDNIGHT)}, r"before\.day"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_with_its_field(
    change: dict[str, Any], said: str, kind: Format
) -> None:
    with pytest.raises(InvalidEvent, match=said) as refused:
        topic(Payment, kind).encode(msgspec.structs.replace(PAYMENT, **change))
    assert "9223372036854775808" not in str(refused.value), "a value is nobody's business"


@pytest.mark.parametrize("values", [(), (1,), (1, 2)])
def test_a_tuple_that_may_be_missing_comes_back_in_avro(values: tuple[int, ...]) -> None:
    event = one("x", tuple[int, ...] | None)
    made = topic(event, "avro")
    assert made.decode(made.encode(event(values))) == event(values)


@pytest.mark.parametrize("price", ["1.234", "99999999999.99", "NaN", "Infinity"])
def test_a_decimal_that_would_be_rounded_is_refused(price: str) -> None:
    with pytest.raises(InvalidEvent, match=r"decimal|does not fit"):
        AVRO.encode(msgspec.structs.replace(PAYMENT, price=Decimal(price)))


@each_format
def test_a_topic_that_nobody_declared_says_so(kind: Format) -> None:
    with pytest.raises(EventsError, match="no id yet"):
        Topic("any", Line, format=kind).encode(Line("a"))


@each_format
def test_a_format_whose_library_is_missing_names_the_extra(
    kind: Format, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    for name in list(sys.modules):
        if name.startswith(f"counterfoil.events.schemas.{kind}"):
            monkeypatch.delitem(sys.modules, name)
    library = {"avro": "fastavro", "protobuf": "google.protobuf"}[kind]
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(EventsError, match=rf"install counterfoil\[{kind}\]"):
        Topic("any", Line, format=kind)


@each_format
def test_the_registry_is_asked_once_for_each_schema(kind: Format) -> None:
    registry = Remembered()
    writer, reader = topic(Line, kind, registry), topic(Line, kind, registry)
    for _ in range(3):
        assert reader.decode(writer.encode(Line("a"))) == Line("a")
    assert registry.asked == 0, "its own is known from the declaration"
    registry.known.append(Schema("AVRO", json.dumps(avro_schema(Payment))))
    for _ in range(2):
        with pytest.raises(UndecodableEvent):
            reader.decode(wire.header(9) + b"x")
    assert registry.asked == 2, "what is unknown may be known later"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "hold no schema id"),
        (b"\0\0\0", "hold no schema id"),
        (b'{"id":1}', "0x7b in place of 0"),
        (wire.header(77) + b"x", "knows no schema 77"),
        (wire.header(0), "no event of schema 0|ends within the path"),
    ],
)
@each_format
def test_what_is_no_event_says_why(data: bytes, said: str, kind: Format) -> None:
    with pytest.raises(UndecodableEvent, match=said):
        topic(Payment, kind).decode(data)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=4), st.binary(max_size=5))
def test_the_path_to_a_message_is_read_as_others_write_it(path: list[int], value: bytes) -> None:
    written = b""
    for number in [len(path), *path]:
        left = number << 1
        while left > 0x7F:
            written += bytes([left & 0x7F | 0x80])
            left >>= 7
        written += bytes([left])
    assert wire.message_path(written + value) == (tuple(path), value)


def test_a_value_of_another_message_of_the_file_is_no_event() -> None:
    data = PROTOBUF.encode(PAYMENT)
    with pytest.raises(UndecodableEvent, match="is message 1 of its file"):
        PROTOBUF.decode(data[:5] + b"\x02\x02" + data[6:])
