"""The ledger as a handler sees it."""

from typing import Final

from counterfoil.events.ledger.book import Book
from counterfoil.events.messages import Record

LARGEST: Final = 2**63 - 1
"""Both databases keep ids and amounts in 64 bits."""


class Ledger:
    """Posts transfers with the commit of the event that caused them."""

    __slots__ = ("_book", "_now_us", "_record")

    def __init__(self, book: Book, record: Record, now_us: int) -> None:
        self._book = book
        self._record = record
        self._now_us = now_us

    def transfer(
        self,
        *,
        id: int,
        debit: str,
        credit: str,
        amount: int,
        currency: str,
        code: str,
    ) -> bool:
        """Post a transfer of `amount` minor units; False if this very transfer was posted before.

        Zero is allowed: a free purchase is a purchase, and is counted.

        Raises:
            LedgerConflict: the id belongs to another transfer.
            ValueError: an amount that is negative or too large, or one account on both sides.
        """
        if not 0 <= amount <= LARGEST or debit == credit:
            raise ValueError("a transfer moves an amount of at least 0 between two accounts")
        record = self._record
        return self._book.post(
            (
                id,
                debit,
                credit,
                amount,
                currency,
                code,
                record.topic,
                record.partition,
                record.offset,
                self._now_us,
            )
        )
