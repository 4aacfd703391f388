"""Deletes old records of the embedded log that every consumer has read.

Whole batches go, from the beginning of a partition on, a bounded number in a transaction: writers
wait for some milliseconds, and never for the whole of what is old. A batch is old when its newest
event is. A consumer has a position from its first start on, and keeps what comes after it, however
old: nobody who stood still finds a gap. One that is removed is forgotten by hand (`counterfoil
events forget`). On Kafka the brokers do this by time alone.

The file doesn't shrink; what is free in it is written anew.
"""

from collections.abc import Iterable
from typing import Final

from counterfoil.events.database import Database
from counterfoil.events.topics import AnyTopic

CHUNK: Final = 256
CHUNK_RECORDS: Final = 16_000
"""What one transaction forgets of a partition: some megabytes, which takes some milliseconds."""
GIVE_WAY_SECONDS: Final = 0.02
"""For how long to let others write between two steps. SQLite hands its lock to whoever asks while
it is free, and who waits asks again after 1, 2, 5 and 10 ms: without a pause, hardly ever then."""


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
        """Where this round has not come to the end of what is old."""

    @property
    def behind(self) -> bool:
        """Whether the last step may have left something that is old."""
        return bool(self._left)

    def step(self, now_us: int) -> int:
        """Forget a chunk of one partition at most; returns the number of batches.

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
        """Forget a chunk of a partition; how many batches, and whether there may be more."""
        oldest_us = now_us - (topic.retention_seconds or 0) * 1_000_000
        if not self._old(topic.name, partition, oldest_us)[0]:
            return 0, False  # without the write lock, as most of the time
        with self._database.transaction():
            old, more = self._old(topic.name, partition, oldest_us)
            if old:
                place = (topic.name, partition)
                self._database.execute(
                    "DELETE FROM record_batches WHERE topic = ? AND partition = ? AND last <= ?",
                    (*place, old[-1]),
                )
                # If these were the last ones, only this tells where the partition goes on.
                self._database.execute(
                    "UPDATE ends SET next = ? WHERE topic = ? AND partition = ?",
                    (old[-1] + 1, *place),
                )
        return len(old), more

    def _old(self, topic: str, partition: int, oldest_us: int) -> tuple[list[int], bool]:
        """The last offsets of the batches at the beginning that are old and were read by all, a
        chunk of them, and whether that leaves some."""
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
        """The earliest position of all consumers of a topic; None if it has none.

        A consumer that has a position in another partition of the topic alone has read nothing of
        this one.
        """
        return self._database.execute(
            "SELECT min(coalesce(here.next, 0)) FROM "
            "(SELECT DISTINCT consumer FROM offsets WHERE topic = ?) AS readers "
            "LEFT JOIN offsets AS here ON here.consumer = readers.consumer "
            "AND here.topic = ? AND here.partition = ?",
            (topic, topic, partition),
        ).fetchone()[0]
