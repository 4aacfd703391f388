"""The table that the tests of reports share."""

import datetime

import msgspec


class Sale(msgspec.Struct, frozen=True):
    """A row with a column of each type that a table may have."""

    id: int
    day: str
    buyer: str
    amount: int
    gift: bool
    due: datetime.date
