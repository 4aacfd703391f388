"""Entries of the ledger."""

from typing import Literal

import msgspec

Account = tuple[str, str]
"""Name and currency."""
Content = tuple[str, str, int, str, str]
"""Debit, credit, amount, currency, code."""
Meaning = tuple[str, str, int, str, str, int | None, int | None]
"""Content, and the transfer that it corrects or the hold that it ends: what a transfer's id stands
for. Two equal payments are reversed by two different transfers."""
Side = Literal["debit", "credit"]
LARGEST = 2**63 - 1
"""Both databases store ids and amounts as signed 64-bit integers."""


def check_texts(*names: str) -> None:
    """Check that accounts, currencies and codes are valid in both databases.

    PostgreSQL rejects NUL: a ledger with one could not be moved there.

    Raises:
        ValueError: they are not; shows them.
    """
    try:
        written = "\0".join(names)
    except TypeError:
        raise ValueError(f"accounts, currency and code are texts: {names}") from None
    if written.count("\0") != len(names) - 1:
        raise ValueError(f"accounts, currency and code have no NUL in them: {names}")


def check_whole(what: str, number: int | None) -> None:
    """Check that both databases store a number, if there is one, unchanged.

    Raises:
        ValueError: it is no integer, which PostgreSQL would round, or has more than 63 bits.
    """
    if number is not None and (type(number) is not int or not -LARGEST <= number <= LARGEST):
        raise ValueError(f"{what} is a whole number of at most 63 bits, not {number!r}")


class Transfer(msgspec.Struct, frozen=True, kw_only=True):
    """An amount of minor units from one account to another, in one currency."""

    id: int
    debit: str
    credit: str
    amount: int
    currency: str
    code: str

    @property
    def content(self) -> Content:
        """The accounts, the amount, the currency and the code."""
        return (self.debit, self.credit, self.amount, self.currency, self.code)

    def checked(self) -> "Transfer":
        """Return itself if it is valid.

        Raises:
            ValueError: an amount that is negative, too large or no integer, one account on both
                sides, or a name that is no `str` or contains NUL.
        """
        # SQLite would reject a fraction; PostgreSQL would round it, but sum before rounding.
        if type(self.amount) is not int or type(self.id) is not int:
            raise ValueError(f"amounts are whole minor units, and ids whole: {self}")
        if not 0 <= self.amount <= LARGEST or self.debit == self.credit:
            raise ValueError("a transfer moves an amount of at least 0 between two accounts")
        check_texts(self.debit, self.credit, self.currency, self.code)
        return self


class Row(msgspec.Struct, frozen=True, gc=False):
    """A transfer as it is stored: with the event that caused it and its related entries."""

    transfer: Transfer
    topic: str
    partition: int
    offset: int
    posted_us: int
    linked: int | None = None
    """The id of the first of the transfers that were posted together."""
    corrects: int | None = None
    hold: int | None = None

    @property
    def meaning(self) -> Meaning:
        """What the id stands for."""
        return (*self.transfer.content, self.corrects, self.hold)

    @property
    def columns(self) -> tuple[object, ...]:
        """The values, in the order of the table's columns."""
        return (
            self.transfer.id,
            *self.transfer.content,
            self.topic,
            self.partition,
            self.offset,
            self.posted_us,
            self.linked,
            self.corrects,
            self.hold,
        )
