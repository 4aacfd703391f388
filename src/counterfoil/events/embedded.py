"""The embedded log: topics in a SQLite file, beside the state of the pipelines.

Any number of processes may open it. SQLite has one writer at a time, which holds the lock from its
first check to its commit. Records are stored in batches (`record_batches.py`). A batch row's
columns suffice, without decoding the batch, to find an offset or a time and to delete old records.

A commit writes and syncs every page that it touches, which is most of the cost of a small one. So
no row is updated for each partition's end: the last batch gives it, and `ends` is used only when
retention has deleted all batches.
"""

import math
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

from counterfoil import faults
from counterfoil.events import record_batches
from counterfoil.events.database import Database
from counterfoil.events.errors import EventsError, Fenced
from counterfoil.events.log import FETCH_BYTES, Positions
from counterfoil.events.messages import Batch, Message, Record
from counterfoil.events.schemas import Registry
from counterfoil.events.shares import ALL, Share
from counterfoil.events.topics import AnyTopic, declare_schemas, no_topic, partition_of

_SCHEMA = """
CREATE TABLE IF NOT EXISTS topics (name TEXT PRIMARY KEY, partitions INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS record_batches (
    topic TEXT NOT NULL, partition INTEGER NOT NULL, last INTEGER NOT NULL,
    number INTEGER NOT NULL, newest_us INTEGER NOT NULL, records BLOB NOT NULL,
    UNIQUE (topic, partition, last)) STRICT;
CREATE TABLE IF NOT EXISTS ends (
    topic TEXT NOT NULL, partition INTEGER NOT NULL, next INTEGER NOT NULL,
    PRIMARY KEY (topic, partition)) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS sources (
    name TEXT PRIMARY KEY, position INTEGER NOT NULL, fencing_token INTEGER NOT NULL) STRICT;
"""
RETRIES: Final = 8
"""While there are events, only every eighth fetch reads retry topics: they are mostly empty, and
reading them costs a commit of a few events some 7%. A reader is `exhaustive` for the other topics
only."""
EARLY_US: Final = 60_000_000
"""How much before an event's own time the search for its record begins: clocks differ."""


class EmbeddedLog:
    """The log in `database`, a `SqliteDatabase`; its topics' schemas are in `registry`."""

    def __init__(self, database: Database, registry: Registry) -> None:
        self._database = database
        self._registry = registry
        self._partitions: dict[str, int] = {}
        database.create([_SCHEMA])

    def declare(self, topics: Iterable[AnyTopic]) -> None:
        """Create missing topics, and register their schemas.

        Raises:
            EventsError: a topic exists with another number of partitions.
            IncompatibleSchema: a topic's schema is incompatible with its last one.
            RegistryUnavailable: the registry can't be reached.
        """
        topics = list(topics)
        declare_schemas(topics, self._registry)
        with self._database.transaction():
            self._database.executemany(
                "INSERT INTO topics VALUES (?, ?) ON CONFLICT (name) DO NOTHING",
                [(topic.name, topic.partitions) for topic in topics],
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
            row = self._database.execute(
                "SELECT partitions FROM topics WHERE name = ?", (topic,)
            ).fetchone()
            if row is None:
                raise no_topic(topic)
            self._partitions[topic] = row[0]
        return self._partitions[topic]

    def appender(self, source: str, fencing_token: int) -> "EmbeddedAppender":
        """Begin a term of appending for `source`."""
        return EmbeddedAppender(self._database, self, source, fencing_token)

    def reader(
        self,
        topics: Sequence[AnyTopic],
        positions: Positions,
        share: Share = ALL,
        *,
        whole: Collection[AnyTopic] = (),
    ) -> "EmbeddedReader":
        """Read a share of `topics` and all partitions of `whole`, from their positions."""
        return EmbeddedReader(self, topics, positions, share, whole=whole)

    def insert(self, messages: Iterable[Message]) -> None:
        """Append messages, inside the caller's transaction."""
        places: defaultdict[tuple[str, int], list[Message]] = defaultdict(list)
        partitions = self._partitions
        for message in messages:
            topic = message.topic
            number = partitions.get(topic) or self.partitions(topic)
            places[topic, partition_of(message.key, number)].append(message)
        ends = {topic: self.ends(topic) for topic in {topic for topic, _ in places}}
        rows: list[tuple[object, ...]] = []
        begun: list[tuple[str, int]] = []
        for place, found in places.items():
            topic, partition = place
            end = ends[topic].get(partition)
            if end is None:
                end = 0
                begun.append(place)
            for portion in record_batches.split(found):
                end += len(portion)
                newest_us = max([each.timestamp_us for each in portion])
                batch = record_batches.encode(portion)
                rows.append((topic, partition, end - 1, len(portion), newest_us, batch))
        self._database.executemany("INSERT INTO record_batches VALUES (?, ?, ?, ?, ?, ?)", rows)
        if begun:
            self._database.executemany("INSERT INTO ends VALUES (?, ?, 0)", begun)

    def read(
        self,
        topic: str,
        partition: int,
        offset: int,
        limit: int,
        *,
        limit_bytes: float = math.inf,
    ) -> list[Record]:
        """The records from `offset` up to the end of the batch that reaches `limit` or
        `limit_bytes`.

        They may exceed the limits by less than a batch, which is decoded as a whole anyway.
        """
        found: list[Record] = []
        for last, batch in self._database.execute(
            "SELECT last, records FROM record_batches "
            "WHERE topic = ? AND partition = ? AND last >= ? ORDER BY last",
            (topic, partition, offset),
        ):
            records = record_batches.decode(topic, partition, last, batch)
            found += records[max(offset - records[0].offset, 0) :]
            limit_bytes -= len(batch)
            if len(found) >= limit or limit_bytes <= 0:
                break
        return found

    def find(
        self,
        topic: AnyTopic,
        event_id: int,
        key: str,
        since_us: int,
        *,
        within_seconds: float = math.inf,
    ) -> Record | None:
        """The first record of an event, searched in its key's partition from about its time."""
        deadline = time.monotonic() + within_seconds
        partition = partition_of(key, topic.partitions)
        for last, batch in self._database.execute(
            "SELECT last, records FROM record_batches "
            "WHERE topic = ? AND partition = ? AND newest_us >= ? ORDER BY last",
            (topic.name, partition, since_us - EARLY_US),
        ):
            for record in record_batches.decode(topic.name, partition, last, batch):
                if record.event_id == event_id:
                    return record
            if time.monotonic() > deadline:
                break
        return None

    def sources(self) -> dict[str, int]:
        """The position up to which each source has been appended."""
        return dict(self._database.execute("SELECT name, position FROM sources"))

    def begins(self, topic: AnyTopic) -> dict[int, int]:
        """The offset of each partition's oldest retained record, or of its next if it has none."""
        kept = self._database.execute(
            "SELECT partition, coalesce((SELECT last + 1 - number FROM record_batches AS batch "
            "WHERE batch.topic = ends.topic AND batch.partition = ends.partition "
            "ORDER BY last LIMIT 1), next) FROM ends WHERE topic = ?",
            (topic.name,),
        )
        return dict.fromkeys(range(topic.partitions), 0) | dict(kept)

    def ends(self, topic: str) -> dict[int, int]:
        """The next offset of each partition."""
        return dict(
            self._database.execute(
                "SELECT partition, coalesce((SELECT max(last) + 1 FROM record_batches AS batch "
                "WHERE batch.topic = ends.topic AND batch.partition = ends.partition), next) "
                "FROM ends WHERE topic = ?",
                (topic,),
            )
        )

    def offsets_at(self, topic: AnyTopic, time_us: int) -> dict[int, int]:
        """The offset of each partition's first event of that time or later."""
        found = self.ends(topic.name)
        for partition in found:
            row = self._database.execute(
                "SELECT last, records FROM record_batches "
                "WHERE topic = ? AND partition = ? AND newest_us >= ? ORDER BY last LIMIT 1",
                (topic.name, partition, time_us),
            ).fetchone()
            if row is not None:
                records = record_batches.decode(topic.name, partition, *row)
                late = (record.offset for record in records if record.timestamp_us >= time_us)
                found[partition] = next(late)
        return found

    def close(self) -> None:
        """Do nothing: the database is closed by its owner."""


class EmbeddedAppender:
    """One term; the log rejects a fencing token older than the newest it has seen."""

    def __init__(
        self, database: Database, log: EmbeddedLog, source: str, fencing_token: int
    ) -> None:
        self._database = database
        self._log = log
        self._source = source
        self._fencing_token = fencing_token
        self.position = self._stored()[0]

    def append(self, messages: Sequence[Message], position: int) -> None:
        """Append what the source has between its position and the new `position`.

        Raises:
            Fenced: a newer token was seen, or the source's stored position differs from this
                term's.
        """
        with self._database.transaction():
            stored, newest = self._stored()
            if not faults.sabotaged("relay-without-fencing"):
                if self._fencing_token < newest:
                    raise Fenced(
                        f"{self._source}: token {self._fencing_token} is older than {newest}",
                        hint="another relay leads; this one must campaign again",
                    )
                if self.position != stored:
                    raise Fenced(f"{self._source}: stands at {stored}, not at {self.position}")
            self._log.insert(messages)
            self._database.execute(
                "INSERT OR REPLACE INTO sources VALUES (?, ?, ?)",
                (self._source, position, self._fencing_token),
            )
        self.position = position

    def close(self) -> None:
        """Do nothing: the next term's token ends this one."""

    def _stored(self) -> tuple[int, int]:
        row: tuple[int, int] | None = self._database.execute(
            "SELECT position, fencing_token FROM sources WHERE name = ?", (self._source,)
        ).fetchone()
        return (0, 0) if row is None else row


class EmbeddedReader:
    """Reads each partition from the position that the caller stores."""

    exhaustive = True

    def __init__(
        self,
        log: EmbeddedLog,
        topics: Sequence[AnyTopic],
        positions: Positions,
        share: Share = ALL,
        *,
        whole: Collection[AnyTopic] = (),
    ) -> None:
        self._log = log
        self._shares = [(topic, ALL) for topic in whole] + [(topic, share) for topic in topics]
        places = sum(len(self._share_of(topic, share)) for topic, share in self._shares)
        self._limit_bytes = FETCH_BYTES // max(places, 1)
        """For each partition, so that none takes a whole fetch and delays the others."""
        self._positions = positions
        self._next: dict[str, dict[int, int]] = {}
        self._decoded: dict[tuple[str, int], tuple[list[Record], int]] = {}
        """Records that were decoded together, and the index of the next to return."""
        self._fetches = 0

    def fetch(self, limit: int) -> list[Batch]:
        """The next records, at most `limit` of each partition.

        Raises:
            StoreUnavailable: the file can't be read at the moment.
        """
        try:
            return self._fetch(limit)
        except BaseException:
            self.rewind()  # or records read before the error would be skipped
            raise

    def _fetch(self, limit: int) -> list[Batch]:
        batches: list[Batch] = []
        self._fetches += 1
        for topic, share in self._shares:
            if topic.name not in self._next:
                self._next[topic.name] = dict(self._positions(topic.name))
            if batches and topic.copies is not None and self._fetches % RETRIES:
                continue
            following = self._next[topic.name]
            for partition in self._share_of(topic, share):
                start = following.get(partition, 0)
                place = (topic.name, partition)
                records, first = self._decoded.pop(place, ([], 0))
                if not records:
                    records = self._log.read(
                        topic.name, partition, start, limit, limit_bytes=self._limit_bytes
                    )
                if len(records) > first + limit:
                    self._decoded[place] = (records, first + limit)
                records = records[first : first + limit]
                if records:
                    batch = Batch(topic.name, partition, start, records)
                    following[partition] = batch.end
                    batches.append(batch)
        return batches

    def reached(self, topic: str) -> Mapping[int, int]:
        """The next offset of each partition that is read."""
        following = self._next.get(topic, {})
        return {
            partition: following.get(partition, 0)
            for found, share in self._shares
            if found.name == topic
            for partition in self._share_of(found, share)
        }

    def rewind(self) -> None:
        """Start from the stored positions at the next fetch."""
        self._next.clear()
        self._decoded.clear()

    def close(self) -> None:
        """Do nothing: a reader has no resources of its own."""

    @staticmethod
    def _share_of(topic: AnyTopic, share: Share) -> list[int]:
        return list(filter(share.has, range(topic.partitions)))
