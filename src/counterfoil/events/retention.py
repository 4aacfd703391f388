"""Deletes old records of the embedded log that every consumer has read.

Whole batches are deleted, from the beginning of a partition, a limited number per transaction: so
writers wait for some milliseconds only. A batch is old when its newest event is. A consumer has a
position from its first start on, and records after it are kept, however old: a stopped consumer
never finds a gap. For a consumer that is removed, run `counterfoil events forget`. On Kafka the
brokers delete by time alone.

The file doesn't shrink; free pages are reused.
"""

from collections.abc import Iterable
from typing import Final

from counterfoil.events.database import Database
from counterfoil.events.topics import AnyTopic

CHUNK: Final = 256
CHUNK_RECORDS: Final = 16_000
"""Limit on what one transaction deletes: some megabytes, which takes some milliseconds."""
GIVE_WAY_SECONDS: Final = 0.02
"""Pause between two steps, to let others write. SQLite's lock is not fair, and waiters retry after
1, 2, 5 and 10 ms: without a pause they would hardly ever find it free."""


class Retention:
    """The retention of those of `topics` that have one, in the embedded log's database."""

    def __init__(self, database: Database, topics: Iterable[AnyTopic]) -> None:
        self._database = database
        self._places = [
            (topic, partition)
            for topic in topics
            if topic.retention_seconds is not None
            for partition in range(topic.partitions)
        ]
        self._left: list[tuple[AnyTopic, int]] = []
        """The partitions that may still have old batches in this round."""

    @property
    def behind(self) -> bool:
        """Whether the last step may have left old batches."""
        return bool(self._left)

    def step(self, now_us: int) -> int:
        """Delete at most a chunk of one partition; returns the number of batches.

        Raises:
            StoreUnavailable: the file can't be written at the moment.
        """
        self._left = self._left or self._places[::-1]
        forgotten = 0
        while self._left and not forgotten:
            forgotten, more = self._forget(*self._left[-1], now_us)
            if not more:
                self._left.pop()
        return forgotten

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def _forget(self, topic: AnyTopic, partition: int, now_us: int) -> tuple[int, bool]:
        """Delete a chunk of a partition; returns how many batches, and whether more may be old."""
        oldest_us = now_us - (topic.retention_seconds or 0) * 1_000_000
        if not self._old(topic.name, partition, oldest_us)[0]:
            return 0, False  # the common case, without taking the write lock
        with self._database.transaction():
            old, more = self._old(topic.name, partition, oldest_us)
            if old:
                place = (topic.name, partition)
                self._database.execute(
                    "DELETE FROM record_batches WHERE topic = ? AND partition = ? AND last <= ?",
                    (*place, old[-1]),
                )
                # If no batch is left, this is the only record of the partition's end.
                self._database.execute(
                    "UPDATE ends SET next = ? WHERE topic = ? AND partition = ?",
                    (old[-1] + 1, *place),
                )
        return len(old), more

    def _old(self, topic: str, partition: int, oldest_us: int) -> tuple[list[int], bool]:
        """The last offsets of a chunk of leading batches that are old and were read by all
        consumers, and whether there may be more."""
        read_until = self._read_until(topic, partition)
        old: list[int] = []
        records = 0
        for last, number, newest_us in self._database.execute(
            "SELECT last, number, newest_us FROM record_batches WHERE topic = ? AND partition = ? "
            "ORDER BY last LIMIT ?",
            (topic, partition, CHUNK),
        ).fetchall():
            if newest_us >= oldest_us or (read_until is not None and last >= read_until):
                return old, False
            records += number
            if old and records > CHUNK_RECORDS:
                return old, True
            old.append(last)
        return old, len(old) == CHUNK

    def _read_until(self, topic: str, partition: int) -> int | None:
        """The earliest position of a topic's consumers; None if there are no consumers.

        A consumer with positions only in other partitions of the topic has read nothing of this
        one.
        """
        return self._database.execute(
            "SELECT min(coalesce(here.next, 0)) FROM "
            "(SELECT DISTINCT consumer FROM offsets WHERE topic = ?) AS readers "
            "LEFT JOIN offsets AS here ON here.consumer = readers.consumer "
            "AND here.topic = ? AND here.partition = ?",
            (topic, topic, partition),
        ).fetchone()[0]
