"""The embedded event log: one SQLite file for records, offsets, state, ledger and dead letters.

That they share a file is the point: a pipeline's state, its offsets and its outputs become durable
in one commit, so that no crash can part them. Any number of processes may open it; SQLite lets one
write at a time, and a writer holds the lock from its first check to its commit.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from counterfoil import faults
from counterfoil.events.errors import EventsError, Fenced
from counterfoil.events.messages import Lag, Message, Record
from counterfoil.events.sqlite import connect, transaction
from counterfoil.events.topics import AnyTopic, partition_of

_SCHEMA = """
CREATE TABLE IF NOT EXISTS topics (name TEXT PRIMARY KEY, partitions INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS records (
    topic TEXT NOT NULL, partition INTEGER NOT NULL, offset INTEGER NOT NULL,
    event_id INTEGER NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL, headers TEXT NOT NULL,
    timestamp_us INTEGER NOT NULL, PRIMARY KEY (topic, partition, offset)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS records_by_event ON records (event_id);
CREATE TABLE IF NOT EXISTS ends (
    topic TEXT NOT NULL, partition INTEGER NOT NULL, next INTEGER NOT NULL,
    PRIMARY KEY (topic, partition)) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS sources (
    name TEXT PRIMARY KEY, position INTEGER NOT NULL, fencing_token INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS offsets (
    consumer TEXT NOT NULL, topic TEXT NOT NULL, partition INTEGER NOT NULL,
    next INTEGER NOT NULL, PRIMARY KEY (consumer, topic, partition)) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS state (
    pipeline TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL,
    PRIMARY KEY (pipeline, key)) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS ledger_accounts (
    name TEXT NOT NULL, currency TEXT NOT NULL, debits INTEGER NOT NULL, credits INTEGER NOT NULL,
    PRIMARY KEY (name, currency)) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS ledger_transfers (
    id INTEGER PRIMARY KEY, debit TEXT NOT NULL, credit TEXT NOT NULL,
    amount INTEGER NOT NULL CHECK (amount >= 0), currency TEXT NOT NULL, code TEXT NOT NULL,
    topic TEXT NOT NULL, partition INTEGER NOT NULL, offset INTEGER NOT NULL,
    posted_us INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS dead_letters (
    id INTEGER PRIMARY KEY AUTOINCREMENT, pipeline TEXT NOT NULL, topic TEXT NOT NULL,
    partition INTEGER NOT NULL, offset INTEGER NOT NULL, event_id INTEGER NOT NULL,
    key TEXT NOT NULL, value BLOB NOT NULL, headers TEXT NOT NULL, error TEXT NOT NULL,
    traceback TEXT NOT NULL, tries INTEGER NOT NULL, failed_us INTEGER NOT NULL,
    replayed_us INTEGER) STRICT;
"""


class EmbeddedLog:
    """The log in the file `path`, made on first use."""

    def __init__(self, path: Path) -> None:
        self.connection = connect(path)
        self.connection.executescript(_SCHEMA)
        self._partitions: dict[str, int] = {}

    def declare(self, topics: Iterable[AnyTopic]) -> None:
        """Make topics known.

        Raises:
            EventsError: a topic exists with another number of partitions, which would tear keys.
        """
        with transaction(self.connection):
            for topic in topics:
                self.connection.execute(
                    "INSERT OR IGNORE INTO topics VALUES (?, ?)", (topic.name, topic.partitions)
                )
        for topic in topics:
            if self.partitions(topic.name) != topic.partitions:
                raise EventsError(
                    f"topic {topic.name} has {self.partitions(topic.name)} partitions, "
                    f"not {topic.partitions}",
                    hint="keep the number: the order of a key's events depends on it",
                )

    def partitions(self, topic: str) -> int:
        """The number of partitions of a declared topic."""
        if topic not in self._partitions:
            row = self.connection.execute(
                "SELECT partitions FROM topics WHERE name = ?", (topic,)
            ).fetchone()
            if row is None:
                raise EventsError(f"no topic {topic!r}", hint="declare it with app.topic(...)")
            self._partitions[topic] = row[0]
        return self._partitions[topic]

    def append(
        self,
        messages: Sequence[Message],
        *,
        source: str,
        position: int,
        expected_position: int,
        fencing_token: int,
    ) -> None:
        """Append what `source` had between two of its positions, once.

        Raises:
            Fenced: a newer token was seen, or the source stands elsewhere than the caller thinks.
        """
        with transaction(self.connection):
            stored, newest = self._source(source)
            if not faults.sabotaged("relay-without-fencing"):
                if fencing_token < newest:
                    raise Fenced(
                        f"{source}: token {fencing_token} is older than {newest}",
                        hint="another relay leads; this one must campaign again",
                    )
                if expected_position != stored:
                    raise Fenced(f"{source}: stands at {stored}, not at {expected_position}")
            self.insert(messages)
            self.connection.execute(
                "INSERT INTO sources VALUES (?, ?, ?) ON CONFLICT (name) DO UPDATE SET "
                "position = excluded.position, fencing_token = excluded.fencing_token",
                (source, position, fencing_token),
            )

    def insert(self, messages: Iterable[Message]) -> None:
        """Give messages their places, inside the caller's transaction."""
        ends: dict[tuple[str, int], int] = {}
        rows: list[tuple[object, ...]] = []
        for message in messages:
            partition = partition_of(message.key, self.partitions(message.topic))
            place = (message.topic, partition)
            if place not in ends:
                ends[place] = self._end(*place)
            rows.append(
                (
                    *place,
                    ends[place],
                    message.event_id,
                    message.key,
                    message.value,
                    json.dumps(message.headers),
                    message.timestamp_us,
                )
            )
            ends[place] += 1
        self.connection.executemany("INSERT INTO records VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
        self.connection.executemany(
            "INSERT OR REPLACE INTO ends VALUES (?, ?, ?)",
            [(*place, end) for place, end in ends.items()],
        )

    def publish(self, messages: Iterable[Message]) -> None:
        """Append without a source: for tools and tests, at least once."""
        with transaction(self.connection):
            self.insert(messages)

    def position(self, source: str) -> int:
        """Up to where `source` has been appended."""
        return self._source(source)[0]

    def read(self, topic: str, partition: int, offset: int, limit: int) -> list[Record]:
        """At most `limit` records from `offset` on."""
        return [
            _record(row)
            for row in self.connection.execute(
                "SELECT * FROM records WHERE topic = ? AND partition = ? AND offset >= ? "
                "ORDER BY offset LIMIT ?",
                (topic, partition, offset, limit),
            )
        ]

    def find_event(self, event_id: int) -> Record | None:
        """The first record with this event id."""
        row = self.connection.execute(
            "SELECT * FROM records WHERE event_id = ? LIMIT 1", (event_id,)
        ).fetchone()
        return None if row is None else _record(row)

    def committed(self, group: str, topic: str) -> dict[int, int]:
        """The next offset of each partition that `group` has still to handle."""
        return dict(
            self.connection.execute(
                "SELECT partition, next FROM offsets WHERE consumer = ? AND topic = ?",
                (group, topic),
            )
        )

    def commit(self, group: str, topic: str, offsets: Mapping[int, int]) -> None:
        """Store offsets by themselves, for a consumer whose truth is kept elsewhere."""
        with transaction(self.connection):
            self.store_offsets(group, topic, offsets)

    def store_offsets(self, group: str, topic: str, offsets: Mapping[int, int]) -> None:
        """Store offsets inside the caller's transaction."""
        self.connection.executemany(
            "INSERT OR REPLACE INTO offsets VALUES (?, ?, ?, ?)",
            [(group, topic, partition, offset) for partition, offset in offsets.items()],
        )

    def lag(self) -> list[Lag]:
        """Every consumer's distance from the end of each partition."""
        return [
            Lag(group, topic, partition, committed, end, end - committed)
            for group, topic, partition, committed, end in self.connection.execute(
                "SELECT consumer, offsets.topic, offsets.partition, offsets.next, ends.next "
                "FROM offsets JOIN ends USING (topic, partition) ORDER BY 1, 2, 3"
            )
        ]

    def close(self) -> None:
        """Close the file."""
        self.connection.close()

    def _source(self, source: str) -> tuple[int, int]:
        row: tuple[int, int] | None = self.connection.execute(
            "SELECT position, fencing_token FROM sources WHERE name = ?", (source,)
        ).fetchone()
        return (0, 0) if row is None else row

    def _end(self, topic: str, partition: int) -> int:
        row: tuple[int] | None = self.connection.execute(
            "SELECT next FROM ends WHERE topic = ? AND partition = ?", (topic, partition)
        ).fetchone()
        return 0 if row is None else row[0]


def _record(row: tuple[Any, ...]) -> Record:
    topic, partition, offset, event_id, key, value, headers, timestamp_us = row
    return Record(topic, partition, offset, event_id, key, value, json.loads(headers), timestamp_us)
