"""The transactional outbox: events are stored in the database of their rows, in commit order.

No transaction may commit a position below one that was already read, or its event is never read.
SQLite has one writer at a time. PostgreSQL assigns sequence numbers before transactions commit, so
writers take a lock on the outbox just before they commit. That is not needed where the outbox is
read from PostgreSQL's WAL (`replication`), which is in commit order.
"""

import json
from collections.abc import Iterable, Sequence
from typing import Any, Final, Protocol

from counterfoil.events.database import Database
from counterfoil.events.messages import Message

SCHEMA = """
CREATE TABLE IF NOT EXISTS outbox (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, event_id INTEGER NOT NULL, topic TEXT NOT NULL,
    key TEXT NOT NULL, value BLOB NOT NULL, headers TEXT NOT NULL,
    created_us INTEGER NOT NULL) STRICT;
"""
COLUMNS: Final = ("event_id", "topic", "key", "value", "headers", "created_us")
"""The columns of an event."""
READ_BYTES: Final = 16 * 1024 * 1024
"""Limit on the content of one read, which a broker takes in some tenths of a second. A thousand of
the largest events would be a gigabyte, twice in memory, and exceed the transaction's timeout."""


def insert(database: Database, messages: Iterable[Message]) -> None:
    """Put events into the outbox; call it last in a transaction."""
    database.enter_outbox()
    database.executemany(
        "INSERT INTO outbox (event_id, topic, key, value, headers, created_us) "
        "VALUES (?, ?, ?, ?, ?, ?)",
        [
            (
                message.event_id,
                message.topic,
                message.key,
                message.value,
                json.dumps(message.headers),
                message.timestamp_us,
            )
            for message in messages
        ],
    )


class OutboxReader(Protocol):
    """Reads the outbox of one source, for one term of a relay."""

    def read_after(self, position: int, limit: int) -> list[tuple[int, Message]]:
        """About `limit` events after `position`, each with its own position.

        All up to `position` is in the event log, and is not read again.
        """
        ...

    def close(self) -> None:
        """Close what is open."""
        ...


class TableOutbox:
    """Reads the outbox from its table."""

    def __init__(self, database: Database) -> None:
        self._database = database
        database.create([SCHEMA])

    def read_after(self, position: int, limit: int) -> list[tuple[int, Message]]:
        """At most `limit` events, and about `READ_BYTES`, after `position`; each with its position.

        They are appended in one transaction, which has a timeout.
        """
        sizes = self._database.execute(
            "SELECT seq, length(value) FROM outbox WHERE seq > ? ORDER BY seq LIMIT ?",
            (position, limit),
        ).fetchall()
        if not sizes:
            return []
        last, left = position, READ_BYTES
        for seq, size in sizes:
            last, left = seq, left - size
            if left <= 0:
                break
        return [
            (seq, message_of(row))
            for seq, *row in self._database.execute(
                "SELECT seq, event_id, topic, key, value, headers, created_us FROM outbox "
                "WHERE seq > ? AND seq <= ? ORDER BY seq",
                (position, last),
            )
        ]

    def close(self) -> None:
        """Close the database."""
        self._database.close()


def message_of(row: Sequence[Any]) -> Message:
    """The event of a row with the columns `COLUMNS`."""
    event_id, topic, key, value, headers, created_us = row
    return Message(event_id, topic, key, value, json.loads(headers), created_us)
