"""A double-entry ledger in the log's database: transfers that never change, and their accounts.

Every transfer debits one account and credits another by the same amount, so each currency sums to
zero by construction; `trial_balance` checks that all the same.
"""

import sqlite3

from counterfoil.events.errors import LedgerConflict
from counterfoil.events.messages import Record


class Ledger:
    """Posts transfers inside the transaction of a pipeline's commit."""

    def __init__(self, connection: sqlite3.Connection, record: Record, now_us: int) -> None:
        self._connection = connection
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
        earlier = self._connection.execute(
            "SELECT debit, credit, amount, currency, code FROM ledger_transfers WHERE id = ?", (id,)
        ).fetchone()
        if earlier is not None:
            if earlier == content:
                return False
            raise LedgerConflict(f"transfer {id} was posted as {earlier}, not as {content}")
        record = self._record
        self._connection.execute(
            "INSERT INTO ledger_transfers VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (id, *content, record.topic, record.partition, record.offset, self._now_us),
        )
        self._connection.executemany(
            "INSERT INTO ledger_accounts VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
            "debits = debits + excluded.debits, credits = credits + excluded.credits",
            [(debit, currency, amount, 0), (credit, currency, 0, amount)],
        )
        return True


def trial_balance(connection: sqlite3.Connection) -> dict[str, tuple[int, int]]:
    """Debits and credits of each currency over all accounts; they are equal or the file is bad."""
    return {
        currency: (debits, credits)
        for currency, debits, credits in connection.execute(
            "SELECT currency, sum(debits), sum(credits) FROM ledger_accounts GROUP BY currency"
        )
    }


def rebuilt_balances(connection: sqlite3.Connection) -> dict[tuple[str, str], tuple[int, int]]:
    """(debits, credits) by (account, currency), computed from the transfers alone."""
    return {
        (account, currency): (debits, credits)
        for account, currency, debits, credits in connection.execute(
            "SELECT account, currency, sum(debits), sum(credits) FROM ("
            "SELECT debit AS account, currency, amount AS debits, 0 AS credits "
            "FROM ledger_transfers UNION ALL "
            "SELECT credit, currency, 0, amount FROM ledger_transfers) GROUP BY 1, 2"
        )
    }
