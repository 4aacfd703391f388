"""Consume-transform-produce on Kafka, in one transaction.

The positions are records in the pipeline's own compacted topic, one key per partition.
`send_offsets_to_transaction` would also work, but it needs a consumer group and two more requests
in each transaction, and its offsets expire while a pipeline is stopped. The newest committed
position records tell exactly what was handled; each term reads them first.

An exchange is one term. Its transactional id fences the term before it and settles what that one
left open (KIP-98, KIP-890); only then are the positions read. After an error the outcome of the
last transaction is unknown: the exchange is closed, and the next one reads the positions. So a
zombie can't commit, and a broker that dies in the middle of a commit leaves no ambiguity.

A pipeline may have several processes, each with a share of the partitions and its own transactional
id (`shares.py`). The positions topic also records each layout in which the pipeline has ever run.
A term first records its own, then reads the others, and fences the ids of those shares that overlap
its own: of any two terms that could both commit for a partition, the one that reads later sees the
other and fences it before it reads a position. Other shares may have open transactions in that
topic, which hide committed records after them; so positions are read up to the topic's end
(uncommitted included), which waits for those transactions.

A commit waits for the broker several times. It runs in its own thread, while the next events are
read and handled; their messages are sent only after it has succeeded.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from counterfoil import faults
from counterfoil.events.errors import LogUnavailable, TermOver
from counterfoil.events.kafka_client import (
    CALL_SECONDS,
    SENDING,
    TRANSACTION_MS,
    Reported,
    begin_at,
    bounds,
    give_up,
    looker,
    produce,
    reader_settings,
    until_end,
)
from counterfoil.events.kafka_reader import KafkaReader
from counterfoil.events.messages import Batch, Message
from counterfoil.events.shares import ALL, Share
from counterfoil.events.topics import AnyTopic

if TYPE_CHECKING:
    from confluent_kafka import Producer

COMMIT_SECONDS: Final = 20.0
"""Less than `TRANSACTION_MS`: the outcome is known before the broker aborts by timeout."""


class KafkaExchange:
    """One term of a pipeline; `names` maps names on the cluster to the topics that it reads."""

    def __init__(
        self,
        connection: dict[str, Any],
        settings: dict[str, Any],
        names: Mapping[str, AnyTopic],
        place: Callable[[Message], tuple[str, int]],
        *,
        transactional_id: str,
        positions_topic: str,
        share: Share = ALL,
    ) -> None:
        self._place = place
        self._positions_topic = positions_topic
        self._producer = _producer(connection, transactional_id + share.name)
        found = _read(connection, positions_topic)
        if share.of not in found.layouts:
            self._note_layout(share.of)
            found = _read(connection, positions_topic)
        overlapping = [
            other
            for of in found.layouts - {share.of}
            for other in (Share(number, of) for number in range(of))
            if share.overlaps(other)
        ]
        for other in overlapping:
            _producer(connection, transactional_id + other.name).close()
        if overlapping:
            found = _read(connection, positions_topic)
        self.positions = {
            place: end for place, end in found.positions.items() if share.has(place[1])
        }
        """(topic, partition) to the next offset, as committed."""
        self._begin(connection, names, share)
        self._reader = KafkaReader(settings, names, self._stored, share)
        self._commits = ThreadPoolExecutor(1, thread_name_prefix=f"commit {transactional_id}")
        self._committing: Future[None] | None = None
        self._moved: dict[tuple[str, int], int] = {}

    def fetch(self, limit: int) -> list[Batch]:
        """The next records, at most `limit` in all.

        Raises:
            TermOver: the cluster does not answer, or retention has deleted what comes next.
        """
        try:
            return self._reader.fetch(limit)
        except LogUnavailable as error:
            # The reader would restart from positions that the commit in progress is changing.
            raise TermOver(str(error), hint=error.hint) from error

    def commit(self, batches: Sequence[Batch], messages: Sequence[Message]) -> None:
        """Begin to commit batches and the messages that result, after the previous commit.

        Raises:
            Fenced: another term has begun.
            TermOver: the outcome of this or the previous commit is unknown.
        """
        self.settle()
        with Reported(TermOver):
            self._producer.begin_transaction()
            # First, so that one request adds this partition to the transaction with the others:
            # last, it would need a separate one, for which the commit would wait.
            moved = {(batch.topic, batch.partition): batch.end for batch in batches}
            _move(self._producer, self._positions_topic, moved)
            for message in messages:
                topic, partition = self._place(message)
                produce(self._producer, topic, partition, message)
        faults.point("pipeline.before-commit")
        self._moved = moved
        self._committing = self._commits.submit(self._producer.commit_transaction, COMMIT_SECONDS)

    def settle(self) -> None:
        """Wait for the commit in progress.

        Raises:
            Fenced: another term has begun.
            TermOver: the outcome is unknown, or nothing was committed.
        """
        if self._committing is None:
            return
        committing, self._committing = self._committing, None
        with Reported(TermOver):
            committing.result()
        self.positions |= self._moved
        faults.point("pipeline.after-commit")

    def close(self) -> None:
        """End the term; the next one aborts what it left open."""
        self._commits.shutdown()
        self._reader.close()
        give_up(self._producer)

    def _note_layout(self, of: int) -> None:
        with Reported(TermOver):
            self._producer.begin_transaction()
            self._producer.produce(
                self._positions_topic, partition=0, key=f"of {of}".encode(), value=b"{}"
            )
            self._producer.commit_transaction(COMMIT_SECONDS)

    def _begin(
        self, connection: dict[str, Any], names: Mapping[str, AnyTopic], share: Share
    ) -> None:
        """Store where partitions without a position begin, so that records which retention deletes
        before they are read are noticed."""
        from confluent_kafka import TopicPartition  # noqa: PLC0415

        unread = [
            (name, topic.name, number)
            for name, topic in names.items()
            for number in filter(share.has, range(topic.partitions))
            if (topic.name, number) not in self.positions
        ]
        if not unread:
            return
        with closing(looker(connection)) as consumer, Reported(TermOver):
            begun = {
                (topic, number): bounds(consumer, TopicPartition(name, number))[0]
                for name, topic, number in unread
            }
            self._producer.begin_transaction()
            _move(self._producer, self._positions_topic, begun)
            self._producer.commit_transaction(COMMIT_SECONDS)
        self.positions |= begun

    def _stored(self, topic: str) -> Mapping[int, int]:
        return {number: end for (name, number), end in self.positions.items() if name == topic}


OPEN_SECONDS: Final = TRANSACTION_MS / 1_000 + CALL_SECONDS
"""How long to wait for positions behind another share's open transaction. If that share's process
is dead and stays so, the broker aborts the transaction after `TRANSACTION_MS`."""


class _Found(NamedTuple):
    positions: dict[tuple[str, int], int]
    layouts: set[int]
    """The numbers of processes with which the pipeline has run."""


def _read(connection: dict[str, Any], topic: str) -> _Found:
    """The newest position of each partition, in a topic that only this pipeline writes."""
    from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition  # noqa: PLC0415

    found = _Found({}, set())
    everything = {**reader_settings(connection), "isolation.level": "read_uncommitted"}
    with closing(Consumer(everything)) as consumer, Reported():
        place = TopicPartition(topic, 0)
        _, end = consumer.get_watermark_offsets(place, timeout=CALL_SECONDS)
    with closing(looker(connection)) as consumer, Reported():
        begin_at(consumer, [TopicPartition(topic, 0, OFFSET_BEGINNING)])
        for message in until_end(consumer, end, OPEN_SECONDS):
            name, slash, number = (message.key() or b"").decode().rpartition("/")
            if slash:
                found.positions[name, int(number)] = json.loads(message.value() or b"{}")["next"]
            else:
                found.layouts.add(int(number.removeprefix("of ")))
    return found


def continue_at(
    connection: dict[str, Any],
    transactional_id: str,
    positions_topic: str,
    positions: Mapping[tuple[str, int], int],
) -> None:
    """Let a pipeline that has never run here begin at `positions`.

    Raises:
        LogUnavailable: the outcome is unknown.
    """
    producer = _producer(connection, transactional_id)
    try:
        with Reported():
            producer.begin_transaction()
            _move(producer, positions_topic, positions)
            producer.commit_transaction(COMMIT_SECONDS)
    finally:
        give_up(producer)


def _move(
    producer: "Producer", positions_topic: str, positions: Mapping[tuple[str, int], int]
) -> None:
    for (topic, number), end in positions.items():
        producer.produce(
            positions_topic,
            partition=0,
            key=f"{topic}/{number}".encode(),
            value=json.dumps({"next": end}).encode(),
        )


def _producer(connection: dict[str, Any], transactional_id: str) -> "Producer":
    """A producer that has fenced the previous term and settled what that one left open."""
    from confluent_kafka import Producer  # noqa: PLC0415 - an extra

    producer = Producer(
        {
            **connection,
            **SENDING,
            "transactional.id": transactional_id,
            "transaction.timeout.ms": TRANSACTION_MS,
        }
    )
    with Reported():
        producer.init_transactions(CALL_SECONDS)
    return producer
