"""Types of events with everything that a binary format maps."""

import datetime as dt
import enum
import uuid
from decimal import Decimal
from typing import Annotated, Any, Literal

import msgspec
from hypothesis import strategies as st

from counterfoil.events.schemas import Format

FORMATS: tuple[Format, ...] = ("avro", "protobuf")
Price = Annotated[Decimal, msgspec.Meta(extra={"precision": 12, "scale": 2})]


class Method(enum.Enum):
    CARD = "card"
    TRANSFER = "transfer"


class Grade(enum.IntEnum):
    GOLD = 10
    BRONZE = 30


class Line(msgspec.Struct, frozen=True):
    sku: str
    number: int = 1
    gift: bool = False


class Payment(msgspec.Struct, frozen=True, rename="camel"):
    event_id: int
    rate: float
    receipt: bytes
    captured: bool
    price: Price
    method: Method
    grade: Grade
    paid_at: dt.datetime
    day: dt.date
    opens: dt.time
    order: uuid.UUID
    channel: Literal["web", "shop"]
    lines: list[Line]
    tags: frozenset[str]
    notes: dict[str, str]
    by_sku: dict[str, Line]
    first: Line
    comment: str | None
    refund: Price | None = None
    gift: Line | None = None
    before: "Payment | None" = None


INT64 = st.integers(-(2**63), 2**63 - 1)
TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
PRICES = st.decimals(Decimal("-9999999999.99"), Decimal("9999999999.99"), places=2)
LINES = st.builds(Line, TEXT, INT64, st.booleans())
ZONES = st.sampled_from([dt.UTC, dt.timezone(dt.timedelta(hours=5, minutes=45))])
TIMES = st.datetimes(dt.datetime(1600, 1, 1), dt.datetime(2400, 1, 1), timezones=ZONES)


def payments(before: st.SearchStrategy[Any]) -> st.SearchStrategy[Payment]:
    return st.builds(
        Payment,
        INT64,
        st.floats(allow_nan=False),
        st.binary(max_size=8),
        st.booleans(),
        PRICES,
        st.sampled_from(Method),
        st.sampled_from(Grade),
        TIMES,
        st.dates(),
        st.times(),
        st.uuids(),
        st.sampled_from(["web", "shop"]),
        st.lists(LINES, max_size=3),
        st.frozensets(TEXT, max_size=3),
        st.dictionaries(TEXT, TEXT, max_size=3),
        st.dictionaries(TEXT, LINES, max_size=3),
        LINES,
        st.none() | TEXT,
        st.none() | PRICES,
        st.none() | LINES,
        before,
    )


PAYMENTS = payments(st.none() | payments(st.none()))
PAYMENT = Payment(
    1,
    0.5,
    b"\0\xff",
    True,
    Decimal("12.30"),
    Method.CARD,
    Grade.GOLD,
    dt.datetime(2026, 3, 1, 12, 30, 0, 123_456, dt.UTC),
    dt.date(2026, 3, 1),
    dt.time(9, 30),
    uuid.UUID(int=7),
    "web",
    [Line("a", 2)],
    frozenset({"new"}),
    {"é": "ü"},
    {"a": Line("a")},
    Line("b", -1, True),
    None,
)
