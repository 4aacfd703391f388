"""What pipelines store: positions, state, ledger and dead letters, in one database.

Sharing a database makes a handler's effects and its pipeline's positions durable in one commit.
Events that a handler emits are part of it: in the embedded log, which is in the same file, or in an
outbox.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from counterfoil.events import event_time, ledger, terms, timers, versions
from counterfoil.events.database import Database
from counterfoil.events.errors import Fenced
from counterfoil.events.log import EventLog
from counterfoil.events.messages import Batch, Message
from counterfoil.events.shares import whole
from counterfoil.events.topics import AnyTopic

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS offsets (
    consumer TEXT NOT NULL, topic TEXT NOT NULL, partition INTEGER NOT NULL,
    next INTEGER NOT NULL, PRIMARY KEY (consumer, topic, partition)) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS parallel_done (
    consumer TEXT NOT NULL, topic TEXT NOT NULL, partition INTEGER NOT NULL, offsets BLOB NOT NULL,
    PRIMARY KEY (consumer, topic, partition)) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS state (
    pipeline TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL,
    PRIMARY KEY (pipeline, key)) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS dead_letters (
    id INTEGER PRIMARY KEY AUTOINCREMENT, pipeline TEXT NOT NULL, topic TEXT NOT NULL,
    partition INTEGER NOT NULL, "offset" INTEGER NOT NULL, event_id INTEGER NOT NULL,
    key TEXT NOT NULL, value BLOB NOT NULL, headers TEXT NOT NULL, error TEXT NOT NULL,
    traceback TEXT NOT NULL, tries INTEGER NOT NULL, failed_us INTEGER NOT NULL,
    replayed_us INTEGER, discarded_us INTEGER) STRICT;
CREATE INDEX IF NOT EXISTS dead_letters_by_place
    ON dead_letters (pipeline, topic, partition, "offset");
CREATE INDEX IF NOT EXISTS dead_letters_waiting
    ON dead_letters (pipeline) WHERE replayed_us IS NULL AND discarded_us IS NULL;
CREATE TABLE IF NOT EXISTS dead_letter_audit (
    id INTEGER PRIMARY KEY AUTOINCREMENT, letter INTEGER NOT NULL, at_us INTEGER NOT NULL,
    actor TEXT NOT NULL, action TEXT NOT NULL, detail TEXT NOT NULL, value BLOB) STRICT;
CREATE INDEX IF NOT EXISTS dead_letter_audit_by_letter ON dead_letter_audit (letter);
"""
_OF_POSITIONS: Final = (
    "DELETE FROM parallel_done WHERE consumer = ?",
    "DELETE FROM terms WHERE consumer = ?",
    "DELETE FROM watermarks WHERE pipeline = ?",
    "DELETE FROM timers WHERE pipeline = ?",
)
"""What is invalid without the positions that it was written with."""
_SAGA: Final = "saga."
"""Prefix of sagas' consumers, whose state stays: running sagas still need it."""


class PipelineStore:
    """The tables of all pipelines; `send` adds messages to the current transaction."""

    def __init__(
        self,
        database: Database,
        send: Callable[[Iterable[Message]], None],
        log: EventLog | None = None,
    ) -> None:
        self.database = database
        self.send = send
        self.log = log
        """The log, if it is in this database. Reading it through the writing connection keeps its
        pages cached; every commit would invalidate another connection's cache."""
        database.create(
            [
                _SCHEMA,
                terms.SCHEMA,
                ledger.SCHEMA,
                versions.SCHEMA,
                timers.SCHEMA,
                event_time.SCHEMA,
            ]
        )

    def positions(self, consumer: str, topic: str) -> dict[int, int]:
        """The next offset that `consumer` has to handle, of each partition."""
        return dict(
            self.database.execute(
                "SELECT partition, next FROM offsets WHERE consumer = ? AND topic = ?",
                (consumer, topic),
            ).fetchall()
        )

    def begin(self, consumer: str, topics: Iterable[AnyTopic], log: EventLog) -> None:
        """Store a position for `consumer` in each partition of `topics` that has none: the offset
        of the oldest record in `log`, where the topics exist.

        From then on, retention keeps what it hasn't read and `lag` lists it, even before its first
        commit. Brokers delete by time alone; with a position, the consumer notices what they have
        deleted before it was read.
        """
        missing: list[tuple[object, ...]] = []
        for topic in topics:
            partitions = set(range(topic.partitions)) - set(self.positions(consumer, topic.name))
            if partitions:  # only at a consumer's first start: later ones don't ask the log
                begins = log.begins(topic)
                missing += [(consumer, topic.name, number, begins[number]) for number in partitions]
        if missing:
            self.database.executemany(
                "INSERT INTO offsets VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING", missing
            )

    def forget(self, consumer: str) -> int:
        """Delete `consumer`'s positions, so that it no longer holds retention back.

        State, timers, watermarks and the record of what is done beyond a position are deleted too:
        a later consumer of the name starts from the oldest events, and would apply them on top of
        old state, or skip what it takes for done. Transfers, dead letters and sagas with their
        state stay. Returns the number of positions.
        """
        forgotten = 0
        with self.database.transaction():
            found = self.database.execute("SELECT DISTINCT consumer FROM offsets").fetchall()
            for name in (name for (name,) in found if consumer in (name, whole(name))):
                forgotten += self.database.execute(
                    "DELETE FROM offsets WHERE consumer = ?", (name,)
                ).rowcount
            for statement in _OF_POSITIONS:
                self.database.execute(statement, (consumer,))
            if not consumer.startswith(_SAGA):
                self.database.execute("DELETE FROM state WHERE pipeline = ?", (consumer,))
        return forgotten

    def advance(self, consumer: str, batches: Iterable[Batch]) -> None:
        """Move the positions past batches; call it first in the transaction that handles them.

        Waits for the commit of a duplicate process that handles the same batches.

        Raises:
            Fenced: another process has handled some of them.
        """
        batches = list(batches)
        moved = self.database.executemany(
            "UPDATE offsets SET next = ? "
            "WHERE consumer = ? AND topic = ? AND partition = ? AND next = ?",
            [(each.end, consumer, each.topic, each.partition, each.start) for each in batches],
        )
        if moved != len(batches):
            moved += self.database.executemany(
                "INSERT INTO offsets VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
                [
                    (consumer, each.topic, each.partition, each.end)
                    for each in batches
                    if each.start == 0
                ],
            )
        if moved != len(batches):
            places = ", ".join(f"{each.topic}/{each.partition}" for each in batches)
            raise Fenced(f"{consumer}: a twin has handled some of {places}")

    def store_positions(self, consumer: str, topic: str, positions: Mapping[int, int]) -> None:
        """Store, for display only, positions whose authoritative copy is elsewhere."""
        with self.database.transaction():
            self.database.executemany(
                "INSERT INTO offsets VALUES (?, ?, ?, ?) ON CONFLICT (consumer, topic, partition) "
                "DO UPDATE SET next = excluded.next",
                [(consumer, topic, partition, next_) for partition, next_ in positions.items()],
            )

    def consumers(self) -> list[tuple[str, str, int, int]]:
        """(consumer, topic, partition, next offset) of all, in order."""
        return self.database.execute(
            "SELECT consumer, topic, partition, next FROM offsets WHERE topic <> ? "
            "ORDER BY 1, 2, 3",
            (terms.COUNT[0],),
        ).fetchall()

    def close(self) -> None:
        """Close the database."""
        self.database.close()
