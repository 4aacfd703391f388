"""The ledger's tables: what happened, which never changes, and sums, which follow from it."""

from typing import Final

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS ledger_transfers (
    id INTEGER PRIMARY KEY, debit TEXT NOT NULL, credit TEXT NOT NULL,
    amount INTEGER NOT NULL CHECK (amount >= 0), currency TEXT NOT NULL, code TEXT NOT NULL,
    topic TEXT NOT NULL, partition INTEGER NOT NULL, "offset" INTEGER NOT NULL,
    posted_us INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS ledger_accounts (
    name TEXT NOT NULL, currency TEXT NOT NULL, debits INTEGER NOT NULL, credits INTEGER NOT NULL,
    PRIMARY KEY (name, currency)) STRICT, WITHOUT ROWID;
"""
