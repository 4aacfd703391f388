"""The transactional outbox: events wait in the database whose rows they tell of, in commit order.

A position must never be passed by a commit that comes later with a smaller one, or its event is
never read. SQLite has one writer at a time. PostgreSQL hands numbers out before their transactions
commit, so writers enter the outbox one after the other, last thing before their commits.
"""

import json
from collections.abc import Iterable

from counterfoil.events.database import Database
from counterfoil.events.messages import Message

SCHEMA = """
CREATE TABLE IF NOT EXISTS outbox (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, event_id INTEGER NOT NULL, topic TEXT NOT NULL,
    key TEXT NOT NULL, value BLOB NOT NULL, headers TEXT NOT NULL,
    created_us INTEGER NOT NULL) STRICT;
"""


def insert(database: Database, messages: Iterable[Message]) -> None:
    """Leave events in the outbox; call it last in a transaction."""
    database.exclusive("outbox")
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


class OutboxReader:
    """Reads the outbox of a database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        database.create([SCHEMA])

    def read_after(self, position: int, limit: int) -> list[tuple[int, Message]]:
        """At most `limit` events after `position`, each with its own position."""
        return [
            (seq, Message(event_id, topic, key, value, json.loads(headers), created_us))
            for seq, event_id, topic, key, value, headers, created_us in self._database.execute(
                "SELECT seq, event_id, topic, key, value, headers, created_us FROM outbox "
                "WHERE seq > ? ORDER BY seq LIMIT ?",
                (position, limit),
            )
        ]

    def close(self) -> None:
        """Close the database."""
        self._database.close()
