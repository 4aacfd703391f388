"""The ledger's tables: immutable entries, and sums derived from them.

Transfers, holds and their ends are only inserted. Account sums, held sums and the list of open
holds can be rebuilt from them (`rebuilt_balances`, `rebuilt_held`).
"""

from typing import Final

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS ledger_transfers (
    id INTEGER PRIMARY KEY, debit TEXT NOT NULL, credit TEXT NOT NULL,
    amount INTEGER NOT NULL CHECK (amount >= 0), currency TEXT NOT NULL, code TEXT NOT NULL,
    topic TEXT NOT NULL, partition INTEGER NOT NULL, "offset" INTEGER NOT NULL,
    posted_us INTEGER NOT NULL, linked INTEGER, corrects INTEGER, hold INTEGER) STRICT;
CREATE INDEX IF NOT EXISTS ledger_transfers_by_debit
    ON ledger_transfers (debit, currency, posted_us);
CREATE INDEX IF NOT EXISTS ledger_transfers_by_credit
    ON ledger_transfers (credit, currency, posted_us);
CREATE INDEX IF NOT EXISTS ledger_transfers_by_corrected
    ON ledger_transfers (corrects) WHERE corrects IS NOT NULL;
CREATE TABLE IF NOT EXISTS ledger_accounts (
    name TEXT NOT NULL, currency TEXT NOT NULL, debits INTEGER NOT NULL, credits INTEGER NOT NULL,
    PRIMARY KEY (name, currency)) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS ledger_guards (
    name TEXT NOT NULL, currency TEXT NOT NULL, side TEXT NOT NULL, opened_us INTEGER NOT NULL,
    PRIMARY KEY (name, currency)) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS ledger_holds (
    id INTEGER PRIMARY KEY, debit TEXT NOT NULL, credit TEXT NOT NULL,
    amount INTEGER NOT NULL CHECK (amount >= 0), currency TEXT NOT NULL, code TEXT NOT NULL,
    topic TEXT NOT NULL, partition INTEGER NOT NULL, "offset" INTEGER NOT NULL,
    placed_us INTEGER NOT NULL, expires_us INTEGER) STRICT;
CREATE TABLE IF NOT EXISTS ledger_hold_ends (
    hold INTEGER PRIMARY KEY, outcome TEXT NOT NULL, transfer INTEGER, amount INTEGER NOT NULL,
    ended_us INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS ledger_open_holds (
    hold INTEGER PRIMARY KEY, expires_us INTEGER) STRICT;
CREATE INDEX IF NOT EXISTS ledger_open_holds_by_expiry ON ledger_open_holds (expires_us);
CREATE TABLE IF NOT EXISTS ledger_held (
    name TEXT NOT NULL, currency TEXT NOT NULL, debits INTEGER NOT NULL, credits INTEGER NOT NULL,
    PRIMARY KEY (name, currency)) STRICT, WITHOUT ROWID;
"""
