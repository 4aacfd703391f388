"""Entries of the ledger."""

from typing import Literal

import msgspec

Account = tuple[str, str]
"""Name and currency."""
Content = tuple[str, str, int, str, str]
"""Debit, credit, amount, currency, code."""
Meaning = tuple[str, str, int, str, str, int | None, int | None]
"""Content, and which transfer it corrects or which hold it ends: what a transfer's id stands for.
Of two payments that are alike each is reversed by a transfer of its own."""
Side = Literal["debit", "credit"]
LARGEST = 2**63 - 1
"""Both databases keep ids and amounts in 64 bits."""


def check_texts(*names: str) -> None:
    """See that accounts, currencies and codes are what both databases take.

    PostgreSQL takes no NUL: a ledger with one could not be carried over there.

    Raises:
        ValueError: shows them.
    """
    try:
        written = "\0".join(names)
    except TypeError:
        raise ValueError(f"accounts, currency and code are texts: {names}") from None
    if written.count("\0") != len(names) - 1:
        raise ValueError(f"accounts, currency and code have no NUL in them: {names}")


def check_whole(what: str, number: int | None) -> None:
    """See that a number, if there is one, is what both databases keep as it is.

    Raises:
        ValueError: PostgreSQL would round it, or neither takes it.
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
        """What is moved, and why."""
        return (self.debit, self.credit, self.amount, self.currency, self.code)

    def checked(self) -> "Transfer":
        """Itself, if it can be.

        Raises:
            ValueError: an amount that is negative, too large or no whole number, one account on
                both sides, or a name that is no text or has a NUL in it.
        """
        # SQLite would refuse a fraction, PostgreSQL round it, and sums before it is rounded.
        if type(self.amount) is not int or type(self.id) is not int:
            raise ValueError(f"amounts are whole minor units, and ids whole: {self}")
        if not 0 <= self.amount <= LARGEST or self.debit == self.credit:
            raise ValueError("a transfer moves an amount of at least 0 between two accounts")
        check_texts(self.debit, self.credit, self.currency, self.code)
        return self


class Row(msgspec.Struct, frozen=True, gc=False):
    """A transfer as it is written: with the event that caused it, and what it belongs to."""

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
        """In the order of the table."""
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
