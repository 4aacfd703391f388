"""Balances, statements and consistency checks, derived from the ledger's entries.

Every transfer debits one account and credits another by the same amount, so each currency sums to
zero by construction; `trial_balance` verifies it. Debits are positive.
"""

from typing import Final

import msgspec

from counterfoil.events.database import Database
from counterfoil.events.ledger.entries import LARGEST, Account

LINES: Final = 1_000
# In PostgreSQL, the sum of integers is a decimal.
_SUMS: Final = "CAST(sum(debits) AS INTEGER), CAST(sum(credits) AS INTEGER)"

_HALF: Final = 1 << 32


class Balance(msgspec.Struct, frozen=True):
    """An account's sums in minor units; held amounts are not posted yet."""

    debits: int = 0
    credits: int = 0
    held_debits: int = 0
    held_credits: int = 0


class Line(msgspec.Struct, frozen=True):
    """A transfer, from the side of one of its accounts."""

    transfer: int
    posted_us: int
    other: str
    code: str
    change: int
    """In minor units; a debit is positive, a credit negative."""
    balance: int
    """After it."""
    corrects: int | None
    linked: int | None


def balance(database: Database, account: str, currency: str) -> Balance:
    """An account's current balance."""
    found: list[int] = []
    for table in ("ledger_accounts", "ledger_held"):
        row = database.execute(
            f"SELECT debits, credits FROM {table} WHERE name = ? AND currency = ?",  # noqa: S608
            (account, currency),
        ).fetchone()
        found += row or (0, 0)
    return Balance(*found)


def balance_at(database: Database, account: str, currency: str, at_us: int) -> Balance:
    """What was posted to an account up to and including `at_us`, in microseconds."""
    return _posted(database, account, currency, (at_us, LARGEST))


def statement(
    database: Database,
    account: str,
    currency: str,
    *,
    since_us: int,
    after: int | None = None,
    limit: int = LINES,
) -> list[Line]:
    """At most `limit` transfers of an account from `since_us` on, in order, with balances.

    Transfers of one commit have the same time. So to get the next page, pass the last line's time
    as `since_us` and its transfer as `after`.
    """
    first = (since_us, -LARGEST - 1 if after is None else after)
    before = _posted(database, account, currency, first)
    running = before.debits - before.credits
    lines: list[Line] = []
    for row in database.execute(
        "SELECT id, posted_us, other, code, change, corrects, linked FROM ("
        "SELECT id, posted_us, credit AS other, code, amount AS change, corrects, linked "
        "FROM ledger_transfers WHERE debit = ? AND currency = ? AND (posted_us, id) > (?, ?) "
        "UNION ALL "
        "SELECT id, posted_us, debit, code, -amount, corrects, linked "
        "FROM ledger_transfers WHERE credit = ? AND currency = ? AND (posted_us, id) > (?, ?)"
        ") AS sides ORDER BY posted_us, id LIMIT ?",
        (account, currency, *first, account, currency, *first, limit),
    ):
        number, posted_us, other, code, change, corrects, linked = row
        running += change
        lines.append(Line(number, posted_us, other, code, change, running, corrects, linked))
    return lines


def _posted(database: Database, account: str, currency: str, last: tuple[int, int]) -> Balance:
    """The sums of an account's transfers up to a time and an id."""
    sums: list[int] = []
    for side in ("debit", "credit"):
        (amount,) = database.execute(
            f"SELECT CAST(coalesce(sum(amount), 0) AS INTEGER) FROM ledger_transfers "  # noqa: S608
            f"WHERE {side} = ? AND currency = ? AND (posted_us, id) <= (?, ?)",
            (account, currency, *last),
        ).fetchone()
        sums.append(amount)
    return Balance(*sums)


def trial_balance(database: Database) -> dict[str, tuple[int, int]]:
    """Debits and credits of each currency over all accounts; unequal ones mean corruption.

    Summed in two halves: each account's sums fit into 63 bits, but their total may not.
    """
    halves = ", ".join(
        f"CAST(sum({part}) AS INTEGER)"
        for side in ("debits", "credits")
        for part in (f"{side} / {_HALF}", f"{side} - {side} / {_HALF} * {_HALF}")
    )
    return {
        currency: (debits * _HALF + more_debits, credits * _HALF + more_credits)
        for currency, debits, more_debits, credits, more_credits in database.execute(
            f"SELECT currency, {halves} FROM ledger_accounts GROUP BY currency"  # noqa: S608
        )
    }


def rebuilt_balances(database: Database) -> dict[Account, tuple[int, int]]:
    """(debits, credits) by (account, currency), computed from the transfers alone."""
    return _rebuilt(database, "ledger_transfers")


def rebuilt_held(database: Database) -> dict[Account, tuple[int, int]]:
    """(debits, credits) held by (account, currency), computed from holds and their ends alone."""
    return _rebuilt(
        database,
        "(SELECT * FROM ledger_holds WHERE NOT EXISTS "
        "(SELECT 1 FROM ledger_hold_ends WHERE hold = ledger_holds.id)) AS open",
    )


def _rebuilt(database: Database, entries: str) -> dict[Account, tuple[int, int]]:
    return {
        (account, currency): (debits, credits)
        for account, currency, debits, credits in database.execute(
            f"SELECT account, currency, {_SUMS} FROM ("  # noqa: S608
            "SELECT debit AS account, currency, amount AS debits, 0 AS credits "
            f"FROM {entries} UNION ALL "
            f"SELECT credit, currency, 0, amount FROM {entries}) AS sides GROUP BY 1, 2"
        )
    }
