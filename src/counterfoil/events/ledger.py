"""A double-entry ledger: transfers that never change, and their accounts.

Every transfer debits one account and credits another by the same amount, so each currency sums to
zero by construction; `trial_balance` checks that all the same.
"""

from counterfoil.events.database import Database
from counterfoil.events.errors import LedgerConflict
from counterfoil.events.messages import Record

# PostgreSQL sums integers up to decimals.
_SUMS = "CAST(sum(debits) AS INTEGER), CAST(sum(credits) AS INTEGER)"


class Ledger:
    """Posts transfers inside the transaction of a pipeline's commit."""

    def __init__(self, database: Database, record: Record, now_us: int) -> None:
        self._database = database
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
            ValueError: a negative amount, or one account on both sides.
        """
        if amount < 0 or debit == credit:
            raise ValueError("a transfer moves an amount of at least 0 between two accounts")
        content = (debit, credit, amount, currency, code)
        record = self._record
        posted = self._database.execute(
            "INSERT INTO ledger_transfers VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
            "ON CONFLICT (id) DO NOTHING",
            (id, *content, record.topic, record.partition, record.offset, self._now_us),
        )
        if posted.rowcount == 0:
            earlier = self._database.execute(
                "SELECT debit, credit, amount, currency, code FROM ledger_transfers WHERE id = ?",
                (id,),
            ).fetchone()
            if earlier == content:
                return False
            raise LedgerConflict(f"transfer {id} was posted as {earlier}, not as {content}")
        self._database.executemany(
            "INSERT INTO ledger_accounts VALUES (?, ?, ?, ?) ON CONFLICT (name, currency) "
            "DO UPDATE SET debits = ledger_accounts.debits + excluded.debits, "
            "credits = ledger_accounts.credits + excluded.credits",
            [(debit, currency, amount, 0), (credit, currency, 0, amount)],
        )
        return True


def trial_balance(database: Database) -> dict[str, tuple[int, int]]:
    """Debits and credits of each currency over all accounts; they are equal or the file is bad."""
    return {
        currency: (debits, credits)
        for currency, debits, credits in database.execute(
            f"SELECT currency, {_SUMS} FROM ledger_accounts GROUP BY currency"  # noqa: S608
        )
    }


def rebuilt_balances(database: Database) -> dict[tuple[str, str], tuple[int, int]]:
    """(debits, credits) by (account, currency), computed from the transfers alone."""
    return {
        (account, currency): (debits, credits)
        for account, currency, debits, credits in database.execute(
            f"SELECT account, currency, {_SUMS} FROM ("  # noqa: S608
            "SELECT debit AS account, currency, amount AS debits, 0 AS credits "
            "FROM ledger_transfers UNION ALL "
            "SELECT credit, currency, 0, amount FROM ledger_transfers) AS sides GROUP BY 1, 2"
        )
    }
