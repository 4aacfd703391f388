"""Forgets old records of the embedded log, as far as everybody has read them.

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
CHUNK_RECORDS: Final = 64_000
"""What one transaction forgets of a partition: some megabytes, which takes some milliseconds."""


class Retention:
    """The retention of those of `topics` that have one, in the embedded log's database."""

    def __init__(self, database: Database, topics: Iterable[AnyTopic]) -> None:
        self._database = database
        self._topics = [topic for topic in topics if topic.retention_seconds is not None]
        self.behind = False
        """Whether the last step has left something that is old: it had a whole chunk to forget."""

    def step(self, now_us: int) -> int:
        """Forget a chunk of each partition at most; returns the number of batches.

        Raises:
            StoreUnavailable: the file can't be written at the moment.
        """
        self.behind = False
        return sum(
            self._forget(topic, partition, now_us)
            for topic in self._topics
            for partition in range(topic.partitions)
        )

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def _forget(self, topic: AnyTopic, partition: int, now_us: int) -> int:
        oldest_us = now_us - (topic.retention_seconds or 0) * 1_000_000
        if not self._old(topic.name, partition, oldest_us):
            return 0  # without the write lock, as most of the time
        with self._database.transaction():
            old = self._old(topic.name, partition, oldest_us)
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
        return len(old)

    def _old(self, topic: str, partition: int, oldest_us: int) -> list[int]:
        """The last offsets of the batches at the beginning that are old and were read by all."""
        read_until = self._read_until(topic, partition)
        old: list[int] = []
        records = 0
        for last, number, newest_us in self._database.execute(
            "SELECT last, number, newest_us FROM record_batches WHERE topic = ? AND partition = ? "
            "ORDER BY last LIMIT ?",
            (topic, partition, CHUNK),
        ).fetchall():
            if newest_us >= oldest_us or (read_until is not None and last >= read_until):
                break
            records += number
            if records > CHUNK_RECORDS:
                self.behind = True
                break
            old.append(last)
        self.behind |= len(old) == CHUNK
        return old

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
