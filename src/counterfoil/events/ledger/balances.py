"""What follows from the transfers: balances by account, and whether they add up.

Every transfer debits one account and credits another by the same amount, so each currency sums to
zero by construction; `trial_balance` checks that all the same.
"""

from counterfoil.events.database import Database

# PostgreSQL sums integers up to decimals.
_SUMS = "CAST(sum(debits) AS INTEGER), CAST(sum(credits) AS INTEGER)"


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
