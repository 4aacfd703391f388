"""The transactional outbox: events wait in the service's own database, in commit order.

SQLite has one writer at a time, so the order of `seq` is the order of the commits and no row with
a smaller `seq` can appear later. A database with concurrent writers needs more than that.
"""

import json
import sqlite3
from pathlib import Path

from counterfoil.events.messages import Message
from counterfoil.events.sqlite import connect

SCHEMA = """
CREATE TABLE IF NOT EXISTS outbox (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, event_id INTEGER NOT NULL UNIQUE, topic TEXT NOT NULL,
    key TEXT NOT NULL, value BLOB NOT NULL, headers TEXT NOT NULL,
    created_us INTEGER NOT NULL) STRICT;
"""


def insert(connection: sqlite3.Connection, message: Message) -> None:
    """Leave an event in the outbox, inside the caller's transaction."""
    connection.execute(
        "INSERT INTO outbox (event_id, topic, key, value, headers, created_us) "
        "VALUES (?, ?, ?, ?, ?, ?)",
        (
            message.event_id,
            message.topic,
            message.key,
            message.value,
            json.dumps(message.headers),
            message.timestamp_us,
        ),
    )


class OutboxReader:
    """Reads the outbox of the service database at `path`."""

    def __init__(self, path: Path) -> None:
        self._connection = connect(path)
        self._connection.executescript(SCHEMA)

    def read_after(self, position: int, limit: int) -> list[tuple[int, Message]]:
        """At most `limit` events after `position`, each with its own position."""
        return [
            (seq, Message(event_id, topic, key, value, json.loads(headers), created_us))
            for seq, event_id, topic, key, value, headers, created_us in self._connection.execute(
                "SELECT * FROM outbox WHERE seq > ? ORDER BY seq LIMIT ?", (position, limit)
            )
        ]

    def close(self) -> None:
        """Close the database."""
        self._connection.close()
