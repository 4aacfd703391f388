"""What pipelines keep: positions, state, ledger and dead letters, in one database.

That they share a database is the point: what a handler did and how far its pipeline has come become
durable in one commit, so that no crash can part them. What a handler sends on leaves from the same
commit: into the embedded log, which is in the same file, or through an outbox.
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
"""What is of no use, and wrong, without the positions that it was written with."""
_SAGA: Final = "saga."
"""Before the name of a saga: it has begun, and goes on with its state whatever its positions."""


class PipelineStore:
    """The tables of all pipelines; `send` is told what leaves with the current transaction."""

    def __init__(
        self,
        database: Database,
        send: Callable[[Iterable[Message]], None],
        log: EventLog | None = None,
    ) -> None:
        self.database = database
        self.send = send
        self.log = log
        """The log, if it is in this database: read through the connection that writes, it keeps its
        pages in memory, where every commit would take them from another connection."""
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
        """The next offset of each partition that `consumer` has still to handle."""
        return dict(
            self.database.execute(
                "SELECT partition, next FROM offsets WHERE consumer = ? AND topic = ?",
                (consumer, topic),
            ).fetchall()
        )

    def begin(self, consumer: str, topics: Iterable[AnyTopic], log: EventLog) -> None:
        """Give `consumer` a position in each partition of `topics`: where it has none, the oldest
        record's in `log`, which knows the topics.

        From then on retention keeps what it has not read and `lag` tells of it, though it may not
        be able to commit anything for a long time. Where brokers delete by time alone, it is told
        what they have deleted before it was read.
        """
        missing: list[tuple[object, ...]] = []
        for topic in topics:
            partitions = set(range(topic.partitions)) - set(self.positions(consumer, topic.name))
            if partitions:  # as it is once in a consumer's life: nothing is asked otherwise
                begins = log.begins(topic)
                missing += [(consumer, topic.name, number, begins[number]) for number in partitions]
        if missing:
            self.database.executemany(
                "INSERT INTO offsets VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING", missing
            )

    def forget(self, consumer: str) -> int:
        """Forget how far `consumer` has come, which holds nothing back any more.

        With its positions goes what was written with them: state, timers, watermarks, and what was
        done beyond a position. Whoever has its name later begins with the oldest events, would
        count them twice on top of an old state, and take what is not done for done. Transfers,
        dead letters and sagas with their state stay. Returns the number of positions.
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
        """Move the positions over some batches; first thing in the transaction that handles them.

        Raises:
            Fenced: somebody else has handled them, or is about to; a twin waits here for the
                other's commit.
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
        """Note how far a consumer is whose truth is kept elsewhere, for those who ask."""
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
