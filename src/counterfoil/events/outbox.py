"""The transactional outbox: events wait in the database whose rows they tell of, in commit order.

A position must never be passed by a commit that comes later with a smaller one, or its event is
never read. SQLite has one writer at a time. PostgreSQL hands numbers out before their transactions
commit, so writers enter the outbox one after the other, last thing before their commits; unless it
is read from PostgreSQL's log (`replication`), in which commits are in order by themselves.
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
"""What makes an event."""
READ_BYTES: Final = 16 * 1024 * 1024
"""Content that is read at once: some tenths of a second to a broker, where a thousand of the
largest events are a gigabyte, in memory twice, and more than a transaction has time for."""


def insert(database: Database, messages: Iterable[Message]) -> None:
    """Leave events in the outbox; call it last in a transaction."""
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

        All that is up to `position` is in the event log, and is not asked for again.
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
        """At most `limit` events after `position`, each with its own position.

        Of large ones fewer, `READ_BYTES` about: they are appended in one transaction, for which
        a broker waits only so long.
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
    """The event of a row, whose columns come in the order of `COLUMNS`."""
    event_id, topic, key, value, headers, created_us = row
    return Message(event_id, topic, key, value, json.loads(headers), created_us)
