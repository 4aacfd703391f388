"""A double-entry ledger: transfers that never change, and what follows from them."""

from counterfoil.events.ledger.balances import rebuilt_balances, trial_balance
from counterfoil.events.ledger.book import Book
from counterfoil.events.ledger.ledger import Ledger
from counterfoil.events.ledger.schema import SCHEMA

__all__ = ["SCHEMA", "Book", "Ledger", "rebuilt_balances", "trial_balance"]
