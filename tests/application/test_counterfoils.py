"""What must match what is refused where it names what isn't there."""

from dataclasses import replace

import msgspec
import pytest

from counterfoil.application import Counterfoils
from counterfoil.application.configuration import ConfigurationError
from counterfoil.events import Topic
from counterfoil.reports import Report, Table


class Sale(msgspec.Struct, frozen=True):
    id: int
    day: str
    amount: int


TABLE = Table("sales", Sale)
REPORT = Report("daily", TABLE, {"totals": ""}, title="Sales")
GOOD = Counterfoils(
    service="shop",
    rows="sales",
    topic=Topic("sales", Sale, partitions=1),
    posted="sale",
    stored=TABLE,
    report=REPORT,
    section="totals",
    count="sales",
    total="revenue",
)
COLUMNS = {"daily": {"totals": ["day", "sales", "revenue"]}}


def test_names_that_are_there_are_taken() -> None:
    GOOD.check(COLUMNS)


@pytest.mark.parametrize(
    ("change", "known"),
    [
        ({"section": "total"}, "totals"),
        ({"count": "number"}, "day, sales, revenue"),
        ({"total": "amount"}, "day, sales, revenue"),
        ({"id": "number"}, "id, day, amount"),
        ({"amount": "price"}, "id, day, amount"),
        ({"report": Report("hourly", TABLE, {}, title="")}, "none"),
    ],
)
def test_a_name_that_is_none_is_refused_with_those_there_are(
    change: dict[str, object], known: str
) -> None:
    with pytest.raises(ConfigurationError, match=f"hint: one of {known}"):
        replace(GOOD, **change).check(COLUMNS)  # type: ignore[arg-type]
