"""How Counterfoil opens SQLite: durable on commit, many readers beside one writer."""

import sqlite3
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

BUSY_MILLISECONDS: Final = 10_000
"""Longer than a paused neighbour holds the write lock in any drill, shorter than a client waits."""


def connect(path: Path) -> sqlite3.Connection:
    """Open `path` with write-ahead logging and a sync at every commit."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute(f"PRAGMA busy_timeout = {BUSY_MILLISECONDS}")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    return connection


@contextmanager
def transaction(connection: sqlite3.Connection) -> Generator[sqlite3.Connection, None, None]:
    """Hold the write lock from the first statement to the commit; roll back on any error."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
