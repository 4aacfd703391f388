"""The handlers' interface to the ledger.

Entries never change. To correct one, reverse it by a transfer that refers to it, and post the right
one.
"""

from collections.abc import Sequence

from counterfoil.events.errors import LedgerConflict, NoSuchEntry, Overdrawn
from counterfoil.events.ledger.book import Book
from counterfoil.events.ledger.entries import Row, Side, Transfer, check_texts, check_whole
from counterfoil.events.ledger.holds import Holds
from counterfoil.events.messages import Record


class Ledger:
    """Enters transfers and holds with the commit of the event that caused them.

    Plain transfers are buffered and written with the commit; everything else needs a savepoint for
    the event.
    """

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
        corrects: int | None = None,
    ) -> bool:
        """Post a transfer of `amount` minor units; False if exactly it was posted before.

        Zero is allowed: a free purchase is recorded too. `corrects` is the id of an earlier
        transfer that this one corrects.

        Raises:
            LedgerConflict: the id belongs to another transfer.
            Overdrawn: it would overdraw a guarded account.
            ValueError: an amount that is negative or too large, or one account on both sides.
        """
        transfer = Transfer(
            id=id, debit=debit, credit=credit, amount=amount, currency=currency, code=code
        )
        check_whole("corrects", corrects)
        return self._post([self._row(transfer.checked(), corrects=corrects)])

    def transfers(self, legs: Sequence[Transfer]) -> bool:
        """Post linked transfers, all or none; False if exactly these were posted before.

        Each balances in its own currency, so a currency exchange is two transfers. A guarded
        account may be overdrawn between two of them, but not at the end.

        Raises:
            LedgerConflict: an id belongs to another transfer, or only some were posted before.
            Overdrawn: they would overdraw a guarded account.
            ValueError: there are none, or one is invalid.
        """
        if not legs:
            raise ValueError("there are no transfers to link")
        first = legs[0].id
        return self._post([self._row(leg.checked(), linked=first) for leg in legs])

    def reverse(self, transfer: int, *, id: int, code: str) -> bool:
        """Reverse a transfer by one in the other direction; False if this was done before.

        Raises:
            NoSuchEntry: there is no such transfer.
            LedgerConflict: another transfer has reversed some of it, or the id belongs to another
                transfer.
            Overdrawn: a guarded account has already spent the amount.
        """
        content = self._book.find(transfer)
        if content is None:
            raise NoSuchEntry(f"there is no transfer {transfer}")
        debit, credit, amount, currency, *_ = content
        back = Transfer(
            id=id, debit=credit, credit=debit, amount=amount, currency=currency, code=code
        ).checked()
        self._refuse_second_reversal(transfer, back)
        return self._post([self._row(back, corrects=transfer)])

    def guard(self, account: str, *, currency: str, side: Side) -> bool:
        """Guard an account against overdrafts from now on; False if it is guarded already.

        `side` is the one on which it grows: `credit` for liabilities (a wallet), `debit` for assets
        (stock, cash).

        Raises:
            LedgerConflict: it is guarded on its other side.
            Overdrawn: it is overdrawn now.
            ValueError: a name that is no `str` or contains NUL, or another side.
        """
        check_texts(account, currency)
        if side not in ("debit", "credit"):  # it would guard nothing, and could not be undone
            raise ValueError(f"an account grows on its debit or credit side, not on {side!r}")
        return self._book.guard((account, currency), side, self._now_us)

    def hold(
        self,
        *,
        id: int,
        debit: str,
        credit: str,
        amount: int,
        currency: str,
        code: str,
        expires_us: int | None = None,
    ) -> bool:
        """Reserve an amount for a transfer; False if exactly this hold was placed before.

        Holds have their own ids. A hold expires when the time of commits reaches `expires_us`, in
        microseconds.

        Raises:
            LedgerConflict: the id belongs to another hold.
            Overdrawn: it would overdraw a guarded account.
            ValueError: an amount that is negative or too large, or one account on both sides.
        """
        hold = Transfer(
            id=id, debit=debit, credit=credit, amount=amount, currency=currency, code=code
        )
        check_whole("expires_us", expires_us)
        return Holds(self._book, self._now_us).place(self._row(hold.checked()), expires_us)

    def post_hold(
        self, hold: int, *, id: int, amount: int | None = None, code: str | None = None
    ) -> bool:
        """End a hold by a transfer of all of it or of `amount`; False if this was done before.

        Raises:
            NoSuchEntry: there is no such hold.
            HoldEnded: it has ended otherwise.
            LedgerConflict: the id belongs to another transfer.
            ValueError: an amount that is negative, or more than was held.
        """
        holds = Holds(self._book, self._now_us)
        transfer = holds.transfer_of(hold, id, amount, code).checked()
        return holds.post(hold, self._row(transfer, hold=hold))

    def void_hold(self, hold: int) -> bool:
        """End a hold without a transfer; False if it was voided before.

        Raises:
            NoSuchEntry: there is no such hold.
            HoldEnded: it has ended otherwise.
        """
        return Holds(self._book, self._now_us).void(hold)

    def expire_holds(self) -> int:
        """End expired holds, at most 1,000; returns how many.

        Not needed for correctness: placing or ending a hold does so first.
        """
        return Holds(self._book, self._now_us).expire()

    def _post(self, rows: Sequence[Row]) -> bool:
        while True:
            try:
                return self._book.post(rows)
            except Overdrawn:
                if not self.expire_holds():
                    raise

    def _row(
        self,
        transfer: Transfer,
        *,
        linked: int | None = None,
        corrects: int | None = None,
        hold: int | None = None,
    ) -> Row:
        record = self._record
        return Row(
            transfer,
            record.topic,
            record.partition,
            record.offset,
            self._now_us,
            linked,
            corrects,
            hold,
        )

    def _refuse_second_reversal(self, transfer: int, back: Transfer) -> None:
        waiting = [
            (row.transfer.id, *row.transfer.content[:4]) for row in self._book.corrections(transfer)
        ]
        written = self._book.execute(
            "SELECT id, debit, credit, amount, currency FROM ledger_transfers WHERE corrects = ?",
            (transfer,),
        ).fetchall()
        for number, debit, credit, amount, currency in [*waiting, *written]:
            way = (debit, credit, currency)
            if number != back.id and way == (back.debit, back.credit, back.currency):
                raise LedgerConflict(
                    f"of transfer {transfer}, {amount} of {back.amount} {currency} (minor units) "
                    f"were taken back by {number} before",
                    hint="take back the rest by a transfer that corrects it",
                )
