"""The ledger as a handler sees it.

Nothing that was entered ever changes. What was wrong is reversed by a transfer that says what it
corrects, and what is right is posted anew.
"""

from collections.abc import Sequence

from counterfoil.events.errors import LedgerConflict, NoSuchEntry, Overdrawn
from counterfoil.events.ledger.book import Book
from counterfoil.events.ledger.entries import Row, Side, Transfer, check_texts, check_whole
from counterfoil.events.ledger.holds import Holds
from counterfoil.events.messages import Record


class Ledger:
    """Enters transfers and holds with the commit of the event that caused them.

    Transfers alone are held in memory and written with the commit; what else there is takes a
    savepoint for the event.
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
        """Post a transfer of `amount` minor units; False if this very transfer was posted before.

        Zero is allowed: a free purchase is a purchase, and is counted. `corrects` names an earlier
        transfer that this one puts right.

        Raises:
            LedgerConflict: the id belongs to another transfer.
            Overdrawn: a guarded account has not enough for it.
            ValueError: an amount that is negative or too large, or one account on both sides.
        """
        transfer = Transfer(
            id=id, debit=debit, credit=credit, amount=amount, currency=currency, code=code
        )
        check_whole("corrects", corrects)
        return self._post([self._row(transfer.checked(), corrects=corrects)])

    def transfers(self, legs: Sequence[Transfer]) -> bool:
        """Post linked transfers, all or none; False if just these were posted before.

        Each balances in its own currency, so an exchange is two: what is paid in one currency, and
        what is got in another. A guarded account may fall short between two of them, not at the
        end.

        Raises:
            LedgerConflict: an id belongs to another transfer, or only some were posted before.
            Overdrawn: a guarded account has not enough for them.
            ValueError: there are none, or one that can't be.
        """
        if not legs:
            raise ValueError("there are no transfers to link")
        first = legs[0].id
        return self._post([self._row(leg.checked(), linked=first) for leg in legs])

    def reverse(self, transfer: int, *, id: int, code: str) -> bool:
        """Take a transfer back by one in the other direction; False if this was done before.

        Raises:
            NoSuchEntry: there is no such transfer.
            LedgerConflict: some of it was taken back by another one, or the id belongs to another
                transfer.
            Overdrawn: a guarded account has spent what it would give back.
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
        """Never let an account be overdrawn from now on; False if it is guarded already.

        `side` is where it grows: `credit` for what is owed to somebody (a wallet), `debit` for what
        is had (stock, cash).

        Raises:
            LedgerConflict: it is guarded on its other side.
            Overdrawn: it is overdrawn now.
            ValueError: a name that is no text or has a NUL in it, or another side.
        """
        check_texts(account, currency)
        if side not in ("debit", "credit"):  # nothing would be guarded, and nobody could mend it
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
        """Set an amount aside for a transfer; False if this very hold was placed before.

        Holds have ids of their own. Once the time of commits has come to `expires_us`, in
        microseconds, the hold has ended.

        Raises:
            LedgerConflict: the id belongs to another hold.
            Overdrawn: a guarded account has not enough for it.
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
        """End holds whose time has come, at most 1,000; returns how many.

        Not needed for anything to be right: whatever places or ends a hold does so first.
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
