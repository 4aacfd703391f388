"""What a table can't hold is refused where it is declared, not when everything starts."""

from typing import Annotated, Literal

import msgspec
import pytest

from counterfoil import Application
from counterfoil.reports import ReportsError


class Move(msgspec.Struct, frozen=True):
    id: str
    day: str
    kind: Literal["in", "out"]
    amount: Annotated[int, msgspec.Meta(gt=0)]


class Priced(msgspec.Struct, frozen=True):
    day: str
    price: float


class Maybe(msgspec.Struct, frozen=True):
    day: str
    note: str | None


class Undated(msgspec.Struct, frozen=True):
    id: str


def test_a_choice_of_texts_is_text() -> None:
    app = Application("shop")
    table = app.store(app.topic("moves", Move))
    assert table.columns() == {"id": "string", "day": "string", "kind": "string", "amount": "int64"}


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (Priced, "column price has the type float"),
        (Maybe, "column note has the type str | None"),
        (Undated, "day must be a str"),
    ],
)
def test_what_has_no_column_type_is_refused_where_it_is_declared(
    row: type[msgspec.Struct], says: str
) -> None:
    app = Application("shop")
    with pytest.raises(ReportsError) as refused:
        app.store(app.topic("moves", row))
    assert says in str(refused.value)
    assert not app.stores
