"""Reads Kafka from offsets that are stored outside of it."""

import time
from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, Final

from counterfoil.events.errors import LogUnavailable
from counterfoil.events.kafka_client import (
    FETCH_SECONDS,
    Reported,
    begin_at,
    bounds,
    raise_for,
    record_of,
)
from counterfoil.events.log import FETCH_BYTES, Positions
from counterfoil.events.messages import Batch, Record
from counterfoil.events.shares import ALL, Share
from counterfoil.events.topics import AnyTopic

if TYPE_CHECKING:
    from confluent_kafka import Message as KafkaMessage

PORTION: Final = 256
"""Messages taken from the client at once. Python's garbage collector tracks the client's messages,
but not records. This few are freed before a collection starts; with 10,000, it would traverse each
several times, and everything else in the process, which costs more than reading them."""
GATHER_SECONDS: Final = 0.005
"""How long to wait for more events after the first, like Kafka's linger. At low rates it delays
each event, but avoids a commit per event: a commit costs as much as hundreds of events."""
Found = defaultdict[tuple[str, int], list[Record]]


class KafkaReader:
    """Reads every partition of a share from the position that the caller stores.

    It joins no consumer group: fencing is decided where the positions are stored, and a group would
    only add ways to lose a member when a broker dies.
    """

    exhaustive = False

    def __init__(
        self,
        settings: dict[str, Any],
        topics: Mapping[str, AnyTopic],
        positions: Positions,
        share: Share = ALL,
        *,
        whole: Collection[AnyTopic] = (),
    ) -> None:
        from confluent_kafka import Consumer  # noqa: PLC0415 - an extra

        self._topics = topics
        self._names = {name: topic.name for name, topic in topics.items()}
        self._positions = positions
        self._share = share
        self._whole = frozenset(topic.name for topic in whole)
        self._next: dict[tuple[str, int], int] = {}
        self._ended: dict[tuple[str, int], int] = {}
        """The end of each partition when the client last reached it."""
        self._number = self._size = 0
        """Records in this fetch, and bytes of their values."""
        self._placed = False
        self._consumer = Consumer({**settings, "enable.partition.eof": True})

    def fetch(self, limit: int) -> list[Batch]:
        """The next records, at most `limit` and about `FETCH_BYTES` in all.

        Empty if there are none yet.

        Raises:
            LogUnavailable: the cluster does not answer, or retention has deleted what comes next.
        """
        if not self._placed:
            self._place()
        records: Found = defaultdict(list)
        try:
            with Reported():
                self._consume(limit, records)
        except BaseException:
            self.rewind()  # or records read before the error would be skipped
            raise
        batches: list[Batch] = []
        for place, found in records.items():
            batch = Batch(*place, self._next[place], found)
            self._next[place] = batch.end
            batches.append(batch)
        return batches

    def reached(self, topic: str) -> Mapping[int, int]:
        """The next offset of each partition, or its end if the client has reached it: the last
        offsets may be transaction markers."""
        return {
            place[1]: max(following, self._ended.get(place, 0))
            for place, following in self._next.items()
            if place[0] == topic
        }

    def rewind(self) -> None:
        """Start from the stored positions at the next fetch."""
        self._placed = False
        self._next.clear()
        self._ended.clear()

    def close(self) -> None:
        """Stop reading."""
        self._consumer.close()

    def _consume(self, limit: int, records: Found) -> None:
        self._number = self._size = 0
        # Asked for more than is there, the client waits its full timeout: so wait for one first.
        deadline = time.monotonic() + FETCH_SECONDS
        while not self._number:
            patience_seconds = deadline - time.monotonic()
            if patience_seconds <= 0 or not self._take(1, patience_seconds, records):
                return
        deadline = time.monotonic() + GATHER_SECONDS
        while (wanted := limit - self._number) > 0 and (left := FETCH_BYTES - self._size) > 0:
            as_large = left * self._number // (self._size + 1) + 1
            portion = min(wanted, PORTION, as_large)
            if self._take(portion, max(deadline - time.monotonic(), 0), records) < portion:
                return

    def _take(self, number: int, patience_seconds: float, records: Found) -> int:
        found = self._consumer.consume(number, patience_seconds)
        names, taken, size = self._names, 0, 0
        for message in found:
            if message.error() is not None:
                if self._note_end(message):
                    continue
                self._see_whether_deleted(message)
                raise_for(message)
            record = record_of(message, names[message.topic() or ""])
            records[record.topic, record.partition].append(record)
            taken += 1
            size += len(record.value)
        self._number += taken
        self._size += size
        return len(found)

    def _note_end(self, message: "KafkaMessage") -> bool:
        """Whether the message reports a partition's end."""
        from confluent_kafka import KafkaError  # noqa: PLC0415

        error, name, number = message.error(), message.topic(), message.partition()
        if error is None or error.code() != KafkaError._PARTITION_EOF:
            return False
        if name in self._names and number is not None:
            self._ended[self._names[name], number] = message.offset() or 0
        return True

    def _see_whether_deleted(self, message: "KafkaMessage") -> None:
        """Raise LogUnavailable if the message reports that retention deleted a position."""
        from confluent_kafka import KafkaError, TopicPartition  # noqa: PLC0415

        error, name, number = message.error(), message.topic(), message.partition()
        gone = (KafkaError.OFFSET_OUT_OF_RANGE, KafkaError._AUTO_OFFSET_RESET)
        if error is None or error.code() not in gone or name not in self._names or number is None:
            return
        oldest, _ = bounds(self._consumer, TopicPartition(name, number))
        place, following = (self._names[name], number), self._next[self._names[name], number]
        if following < oldest:
            raise LogUnavailable(
                f"Kafka: {place[0]}/{number}: what is between {following} and {oldest} was deleted "
                "by the topic's retention before it was read here",
                hint='docs/events.md, "In production", says how to go on without it',
            )

    def _place(self) -> None:
        """Seek every partition to its stored position, or without one to its oldest record."""
        from confluent_kafka import OFFSET_BEGINNING, TopicPartition  # noqa: PLC0415

        partitions: list[TopicPartition] = []
        for name, topic in self._topics.items():
            stored = self._positions(topic.name)
            share = ALL if topic.name in self._whole else self._share
            for number in filter(share.has, range(topic.partitions)):
                self._next[topic.name, number] = stored.get(number, 0)
                following = stored.get(number, OFFSET_BEGINNING)
                partitions.append(TopicPartition(name, number, following))
        with Reported():
            begin_at(self._consumer, partitions)
        self._placed = True
