"""A double-entry ledger: immutable transfers and holds, and what is derived from them."""

from counterfoil.events.ledger.balances import (
    Balance,
    Line,
    balance,
    balance_at,
    rebuilt_balances,
    rebuilt_held,
    statement,
    trial_balance,
)
from counterfoil.events.ledger.book import Book
from counterfoil.events.ledger.entries import Transfer
from counterfoil.events.ledger.ledger import Ledger
from counterfoil.events.ledger.schema import SCHEMA

__all__ = [
    "SCHEMA",
    "Balance",
    "Book",
    "Ledger",
    "Line",
    "Transfer",
    "balance",
    "balance_at",
    "rebuilt_balances",
    "rebuilt_held",
    "statement",
    "trial_balance",
]
