"""Holds: amounts reserved for a transfer that may follow.

A hold is placed, and ends once: it is posted in whole or in part, voided, or expires. Placing and
ending are rows that never change. Until its end, a hold reduces what a guarded account can spend.

Time is the commit's. Placing or ending a hold first ends some expired ones; before an entry is
rejected for lack of funds, all expired ones are ended.
"""

from typing import Final, Literal

from counterfoil.events.errors import HoldEnded, LedgerConflict, NoSuchEntry, Overdrawn
from counterfoil.events.ledger.book import Book
from counterfoil.events.ledger.entries import Content, Row, Side, Transfer

EXPIRIES: Final = 1_000
"""Maximum expired holds to end at once: bounds how long one event takes."""
Outcome = Literal["posted", "voided", "expired"]
Found = tuple[str, str, int, str, str, int | None]


class Holds:
    """The holds of a ledger, as of `now_us`."""

    def __init__(self, book: Book, now_us: int) -> None:
        self._book = book
        self._now_us = now_us

    def place(self, row: Row, expires_us: int | None) -> bool:
        """Reserve an amount; False if exactly this hold was placed before.

        Raises:
            LedgerConflict: the id belongs to another hold.
            Overdrawn: it would overdraw a guarded account.
        """
        hold = row.transfer
        self.expire()
        earlier = self._book.execute(
            "SELECT debit, credit, amount, currency, code, expires_us FROM ledger_holds "
            "WHERE id = ?",
            (hold.id,),
        ).fetchone()
        content = (*hold.content, expires_us)
        if earlier is not None:
            if tuple(earlier) == content:
                return False
            raise LedgerConflict(f"hold {hold.id} was placed as {earlier}, not as {content}")
        spending: tuple[tuple[str, Side], ...] = ((hold.debit, "credit"), (hold.credit, "debit"))
        for name, spent in spending:
            while (left := self._book.spendable((name, hold.currency), spent)) is not None:
                if left >= hold.amount:
                    break
                if self.expire():
                    continue
                raise Overdrawn(
                    f"{name} lacks {hold.amount - left} {hold.currency} (minor units) "
                    f"for hold {hold.id}",
                    hint="refuse what asked for it, or let more come in first",
                )
        self._book.execute(
            "INSERT INTO ledger_holds VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (*row.columns[:10], expires_us),
        )
        self._book.execute("INSERT INTO ledger_open_holds VALUES (?, ?)", (hold.id, expires_us))
        self._move(hold.content, 1)
        return True

    def post(self, number: int, row: Row) -> bool:
        """End a hold by a transfer of at most its amount; False if exactly that was done before.

        Raises:
            NoSuchEntry: there is no such hold.
            HoldEnded: it has ended otherwise.
            LedgerConflict: the id belongs to another transfer, or to one of another hold.
            ValueError: the transfer is of more than was held.
        """
        self.expire()
        held, transfer = self._find(number)[2], row.transfer
        if transfer.amount > held:
            raise ValueError(f"hold {number} is of {held}, not of {transfer.amount}")
        ended = self._ended(number)
        if ended is not None:
            if ended == ("posted", transfer.id, transfer.amount):
                return False
            raise _ended_otherwise(number, ended[0])
        # Before ending the hold: a handler may catch the error and go on.
        if (earlier := self._book.find(transfer.id)) is not None:
            raise LedgerConflict(
                f"transfer {transfer.id} was posted as {earlier}, and not for hold {number}"
            )
        self._end(number, "posted", transfer.id, transfer.amount)
        return self._book.post([row])

    def void(self, number: int) -> bool:
        """End a hold without a transfer; False if it was voided before.

        Raises:
            NoSuchEntry: there is no such hold.
            HoldEnded: it has ended otherwise.
        """
        self.expire()
        ended = self._ended(number)
        if ended is not None:
            if ended[0] == "voided":
                return False
            raise _ended_otherwise(number, ended[0])
        self._end(number, "voided", None, 0)
        return True

    def expire(self) -> int:
        """End expired holds, at most `EXPIRIES`; returns how many."""
        self._book.enter_now()
        due = self._book.execute(
            "SELECT hold FROM ledger_open_holds WHERE expires_us <= ? ORDER BY expires_us LIMIT ?",
            (self._now_us, EXPIRIES),
        ).fetchall()
        for (number,) in due:
            self._end(number, "expired", None, 0)
        return len(due)

    def transfer_of(self, number: int, id: int, amount: int | None, code: str | None) -> Transfer:
        """The transfer that ends a hold, all of it unless an amount is given.

        Raises:
            NoSuchEntry: there is no such hold.
        """
        debit, credit, held, currency, held_code, _ = self._find(number)
        return Transfer(
            id=id,
            debit=debit,
            credit=credit,
            amount=held if amount is None else amount,
            currency=currency,
            code=held_code if code is None else code,
        )

    def _find(self, number: int) -> Found:
        found: Found | None = self._book.execute(
            "SELECT debit, credit, amount, currency, code, expires_us FROM ledger_holds "
            "WHERE id = ?",
            (number,),
        ).fetchone()
        if found is None:
            raise NoSuchEntry(f"there is no hold {number}")
        return found

    def _ended(self, number: int) -> tuple[Outcome, int | None, int] | None:
        """How a hold ended; ends it now if it has expired but not been ended yet."""
        expires_us = self._find(number)[5]
        ended = self._book.execute(
            "SELECT outcome, transfer, amount FROM ledger_hold_ends WHERE hold = ?", (number,)
        ).fetchone()
        if ended is None and expires_us is not None and expires_us <= self._now_us:
            self._end(number, "expired", None, 0)
            return ("expired", None, 0)
        return ended

    def _end(self, number: int, outcome: Outcome, transfer: int | None, amount: int) -> None:
        debit, credit, held, currency, code, _ = self._find(number)
        self._book.execute(
            "INSERT INTO ledger_hold_ends VALUES (?, ?, ?, ?, ?)",
            (number, outcome, transfer, amount, self._now_us),
        )
        self._book.execute("DELETE FROM ledger_open_holds WHERE hold = ?", (number,))
        self._move((debit, credit, held, currency, code), -1)

    def _move(self, content: Content, sign: int) -> None:
        debit, credit, amount, currency, _ = content
        for row in sorted([(debit, currency, amount, 0), (credit, currency, 0, amount)]):
            name, _, debits, credits = row
            self._book.execute(
                "INSERT INTO ledger_held VALUES (?, ?, ?, ?) ON CONFLICT (name, currency) "
                "DO UPDATE SET debits = ledger_held.debits + excluded.debits, "
                "credits = ledger_held.credits + excluded.credits",
                (name, currency, sign * debits, sign * credits),
            )
        self._book.forget()


def _ended_otherwise(number: int, outcome: Outcome) -> HoldEnded:
    return HoldEnded(f"hold {number} was {outcome} before", hint="place another one")
