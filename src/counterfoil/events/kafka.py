"""The log on Apache Kafka: written in transactions, read committed.

A source's position is a record in a topic of its own, written in the same Kafka transaction as the
source's events. Unlike a consumer group's offset, it never expires. Each term initialises the
source's transactional id, which fences the term before it (KIP-98, KIP-890), and only then reads
the position. A producer whose transaction ended with an error is closed: a new term finds out
whether it committed.

Topics are named `APPLICATION.TOPIC`, so that applications can share a cluster.
"""

import json
import math
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing, suppress
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, cast

from counterfoil import faults
from counterfoil.events.errors import EventsError, LogUnavailable, TermOver
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
    record_of,
    say,
    until_end,
)
from counterfoil.events.kafka_exchange import KafkaExchange, continue_at
from counterfoil.events.kafka_reader import KafkaReader
from counterfoil.events.kafka_rights import check_rights
from counterfoil.events.log import Positions
from counterfoil.events.messages import Message, Record
from counterfoil.events.schemas import Registry
from counterfoil.events.shares import ALL, Share
from counterfoil.events.topics import AnyTopic, declare_schemas, no_topic, partition_of
from counterfoil.kafka_access import KafkaAccess

if TYPE_CHECKING:
    from confluent_kafka import Producer, TopicPartition

COPY_SECONDS: Final = 60.0
EARLY_MS: Final = 60_000
"""How much before an event's own time the search for its record begins: clocks differ."""
_TOPIC: Final = MappingProxyType({"message.timestamp.type": "LogAppendTime"})
"""Retention counts from when a record was appended: after a move, events may be much older."""
_POSITIONS: Final = MappingProxyType(
    {
        "cleanup.policy": "compact",
        "segment.bytes": str(4 * 1024 * 1024),
        "min.cleanable.dirty.ratio": "0.1",
    }
)
"""Settings of a positions topic: the newest record of each key counts, and each term reads all of
it first. Kafka compacts full segments only, by default of 1 GiB: after weeks of a hundred commits a
second, a new leader would read for minutes. A segment of this size holds some ten thousand commits,
which are read in a moment."""
_FETCHING: Final = MappingProxyType(
    {"queued.min.messages": 50_000, "queued.max.messages.kbytes": 32 * 1024}
)
"""Prefetch while events are handled, up to 32 MiB a partition."""


class KafkaLog:
    """The topics of `application` on a cluster; their schemas are in `registry`."""

    def __init__(self, access: KafkaAccess, application: str, registry: Registry) -> None:
        self._access = access
        self._application = application
        self._registry = registry
        self._connection: dict[str, Any] = {
            **access.librdkafka(),
            "error_cb": say,
            "log_level": 2,  # the callback logs errors; the rest would go to standard error
            "reconnect.backoff.max.ms": 1_000,
        }
        self._places: dict[str, tuple[str, int]] = {}
        """Each known topic's name on the cluster and number of partitions."""

    def declare(self, topics: Iterable[AnyTopic]) -> None:
        """Create missing topics with the cluster's default replication; register their schemas.

        Raises:
            EventsError: a topic exists with another number of partitions.
            LogUnavailable: no broker answered.
            IncompatibleSchema: a topic's schema is incompatible with its last one.
            RegistryUnavailable: the registry can't be reached.
        """
        topics = list(topics)
        declare_schemas(topics, self._registry)
        wanted = {topic.name: topic.partitions for topic in topics}
        for kept, compacted in {(topic.retention_seconds, topic.compacted) for topic in topics}:
            # "For ever" must be set explicitly: the brokers' default is a week.
            settings = {"retention.ms": "-1" if kept is None else str(kept * 1_000)}
            if compacted:
                settings["cleanup.policy"] = "compact" if kept is None else "compact,delete"
            self._create(
                {
                    self._named(topic.name): topic.partitions
                    for topic in topics
                    if (topic.retention_seconds, topic.compacted) == (kept, compacted)
                },
                {**_TOPIC, **settings},
            )
        self._places |= {name: (self._named(name), number) for name, number in wanted.items()}

    def check_rights(self, topics: Iterable[AnyTopic], holders: Iterable[str]) -> None:
        """Check that the user may use declared `topics` and act for `holders`.

        Holders are sources and stateless pipelines: they store positions, in topics that are
        created here if missing.

        Raises:
            EventsError: the user may not; names the missing rights.
            LogUnavailable: the brokers did not answer.
        """
        positions = [self._named(f"{holder}.positions") for holder in holders]
        self._create(dict.fromkeys(positions, 1), _POSITIONS)
        if self._access.sasl or self._access.certificate is not None:
            names = [self._named(topic.name) for topic in topics]
            check_rights(self._access, self._application, [*names, *positions])

    def appender(self, source: str, fencing_token: int) -> "KafkaAppender":
        """Begin a term of appending for `source`, with a producer that fences earlier ones.

        The lease's token is not needed: the producer's epoch fences, and grows with each term.
        """
        positions = self._positions_of(source)
        return KafkaAppender(
            self._connection,
            self._place,
            transactional_id=self._named(source),
            positions_topic=positions,
        )

    def reader(
        self,
        topics: Sequence[AnyTopic],
        positions: Positions,
        share: Share = ALL,
        *,
        whole: Collection[AnyTopic] = (),
    ) -> "KafkaReader":
        """Read a share of `topics` and all partitions of `whole`, from their positions."""
        names = {self._named(topic.name): topic for topic in [*whole, *topics]}
        settings = reader_settings(self._connection)
        return KafkaReader(settings, names, positions, share, whole=whole)

    def exchange(
        self, consumer: str, topics: Sequence[AnyTopic], share: Share = ALL
    ) -> KafkaExchange:
        """Begin a term of `consumer` over a share of `topics`, which ends earlier ones."""
        positions = self._positions_of(consumer)
        return KafkaExchange(
            self._connection,
            {**reader_settings(self._connection), **_FETCHING},
            {self._named(topic.name): topic for topic in topics},
            self._place,
            transactional_id=self._named(f"{consumer}.exchange"),
            positions_topic=positions,
            share=share,
        )

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
        from confluent_kafka import TopicPartition  # noqa: PLC0415 - an extra

        name, partition = self._named(topic.name), partition_of(key, topic.partitions)
        with closing(looker(self._connection)) as consumer, Reported():
            since = TopicPartition(name, partition, max(since_us // 1_000 - EARLY_MS, 0))
            consumer.assign(consumer.offsets_for_times([since], timeout=CALL_SECONDS))
            deadline = time.monotonic() + within_seconds
            for message in until_end(consumer):
                record = record_of(message, topic.name)
                if record.event_id == event_id:
                    return record
                if time.monotonic() > deadline:
                    break
        return None

    def begins(self, topic: AnyTopic) -> dict[int, int]:
        """The offset of each partition's oldest retained record, or of its next if it has none."""
        from confluent_kafka import TopicPartition  # noqa: PLC0415

        name = self._named(topic.name)
        with closing(looker(self._connection)) as consumer, Reported():
            return {
                number: bounds(consumer, TopicPartition(name, number))[0]
                for number in range(topic.partitions)
            }

    def ends(self, topic: str) -> dict[int, int]:
        """The next offset of each partition."""
        from confluent_kafka import TopicPartition  # noqa: PLC0415

        name = self._named(topic)
        with closing(looker(self._connection)) as consumer, Reported():
            known = consumer.list_topics(name, timeout=CALL_SECONDS).topics[name].partitions
            return {number: bounds(consumer, TopicPartition(name, number))[1] for number in known}

    def offsets_at(self, topic: AnyTopic, time_us: int) -> dict[int, int]:
        """The offset of each partition's first record that was appended at that time or later."""
        from confluent_kafka import TopicPartition  # noqa: PLC0415

        name = self._named(topic.name)
        wanted = [
            TopicPartition(name, number, max(time_us // 1_000, 0))
            for number in range(topic.partitions)
        ]
        with closing(looker(self._connection)) as consumer, Reported():
            found = consumer.offsets_for_times(wanted, timeout=CALL_SECONDS)
            return {
                each.partition: each.offset if each.offset >= 0 else bounds(consumer, each)[1]
                for each in found
            }

    def copy(self, topic: AnyTopic, records: Iterable[Record], ends: Mapping[int, int]) -> None:
        """Fill an empty topic with another log's records, each at its original offset.

        Not in a transaction: its markers would take offsets. Offsets that the other log no longer
        has are filled with empty records, which are then deleted; a partition without records is
        filled up to its `ends`.

        Raises:
            LogUnavailable: some were not acknowledged; drop the topic and begin again.
        """
        from confluent_kafka import Producer, TopicPartition  # noqa: PLC0415 - an extra
        from confluent_kafka.admin import AdminClient  # noqa: PLC0415

        name = self._named(topic.name)
        producer = Producer({**self._connection, **SENDING, "enable.idempotence": True})
        kept: dict[int, int] = {}
        for record in records:
            if record.partition not in kept:
                kept[record.partition] = record.offset
                _fill(producer, name, record.partition, record.offset)
            produce(producer, name, record.partition, record)
            producer.poll(0)
        for partition, end in ends.items():
            if partition not in kept:
                kept[partition] = end
                _fill(producer, name, partition, end)
        left = producer.flush(COPY_SECONDS)
        found = self.ends(topic.name)
        if left or any(found[partition] != end for partition, end in ends.items()):
            raise LogUnavailable(f"Kafka: {topic.name} ends at {found}, not at {dict(ends)}")
        forgotten = [TopicPartition(name, number, first) for number, first in kept.items() if first]
        if forgotten:
            admin = AdminClient(self._connection)
            with Reported():
                deletions = cast(
                    "dict[TopicPartition, Future[object]]",
                    admin.delete_records(forgotten, request_timeout=CALL_SECONDS),
                )
                for deletion in deletions.values():
                    deletion.result(CALL_SECONDS)

    def continue_at(self, consumer: str, positions: Mapping[tuple[str, int], int]) -> None:
        """Let a stateless pipeline that has never run here begin at `positions`.

        Raises:
            LogUnavailable: the outcome is unknown.
        """
        topic = self._positions_of(consumer)
        continue_at(self._connection, self._named(f"{consumer}.exchange"), topic, positions)

    def close(self) -> None:
        """Do nothing: no connection stays open between calls."""

    def _named(self, topic: str) -> str:
        return f"{self._application}.{topic}"

    def _place(self, message: Message) -> tuple[str, int]:
        if message.topic not in self._places:
            self._find(message.topic)
        name, partitions = self._places[message.topic]
        return name, partition_of(message.key, partitions)

    def check(self, topic: str) -> None:
        """Check that a topic exists; passes if no broker answers.

        Raises:
            EventsError: it doesn't exist.
        """
        if topic not in self._places:
            with suppress(LogUnavailable):
                self._find(topic)

    def _positions_of(self, holder: str) -> str:
        """The name of a holder's positions topic, which is created if missing."""
        name = self._named(f"{holder}.positions")
        self._create({name: 1}, _POSITIONS)
        return name

    def _find(self, topic: str) -> None:
        """Look up a topic that another process has declared."""
        from confluent_kafka.admin import AdminClient  # noqa: PLC0415

        name = self._named(topic)
        with Reported():
            found = AdminClient(self._connection).list_topics(timeout=CALL_SECONDS).topics.get(name)
        if found is None:
            raise no_topic(topic)
        self._places[topic] = (name, len(found.partitions))

    def _create(self, wanted: Mapping[str, int], settings: Mapping[str, str]) -> None:
        from confluent_kafka import KafkaError, KafkaException  # noqa: PLC0415
        from confluent_kafka.admin import AdminClient  # noqa: PLC0415
        from confluent_kafka.cimpl import NewTopic  # noqa: PLC0415

        admin = AdminClient(self._connection)
        with Reported():
            found = admin.list_topics(timeout=CALL_SECONDS).topics
            missing = [
                NewTopic(name, num_partitions=number, replication_factor=-1, config=dict(settings))
                for name, number in wanted.items()
                if name not in found
            ]
            creations = cast(
                "dict[str, Future[None]]", admin.create_topics(missing) if missing else {}
            )
            for creating in creations.values():
                try:
                    creating.result(CALL_SECONDS)
                except KafkaException as error:
                    if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                        raise
        for name, number in wanted.items():
            if name in found and len(found[name].partitions) != number:
                raise EventsError(
                    f"topic {name} has {len(found[name].partitions)} partitions, not {number}",
                    hint="keep the number: the order of a key's events depends on it",
                )


def _fill(producer: "Producer", topic: str, partition: int, number: int) -> None:
    """Send `number` empty records."""
    nothing = Message(0, topic, "", b"", {}, 0)
    for _ in range(number):
        produce(producer, topic, partition, nothing)
        producer.poll(0)


class KafkaAppender:
    """One term, with its own transactional producer."""

    def __init__(
        self,
        connection: dict[str, Any],
        place: Callable[[Message], tuple[str, int]],
        *,
        transactional_id: str,
        positions_topic: str,
    ) -> None:
        from confluent_kafka import Producer  # noqa: PLC0415 - an extra

        if faults.sabotaged("relay-without-fencing"):
            transactional_id += f".{uuid.uuid4()}"
        self._place = place
        self._positions_topic = positions_topic
        self._producer = Producer(
            {
                **connection,
                **SENDING,
                "transactional.id": transactional_id,
                "transaction.timeout.ms": TRANSACTION_MS,
            }
        )
        with Reported():
            self._producer.init_transactions(CALL_SECONDS)
        self.position = _last_position(connection, positions_topic)

    def append(self, messages: Sequence[Message], position: int) -> None:
        """Append what the source has between its position and the new `position`.

        Raises:
            Fenced: another term has begun.
            TermOver: the outcome is unknown, or nothing was appended.
        """
        producer = self._producer
        with Reported(TermOver):
            producer.begin_transaction()
            for message in messages:
                topic, partition = self._place(message)
                produce(producer, topic, partition, message)
            moved = json.dumps({"position": position}).encode()
            producer.produce(self._positions_topic, partition=0, key=b"position", value=moved)
            producer.commit_transaction(CALL_SECONDS)
        self.position = position

    def close(self) -> None:
        """Close the producer; the next term aborts what it left open."""
        give_up(self._producer)


def _last_position(connection: dict[str, Any], topic: str) -> int:
    """The newest position in a source's own topic, which only this source writes.

    Read up to the end that the leader reports: a fetch alone may see an end that is too early, from
    a new leader that doesn't know its followers' progress yet (KIP-207).
    """
    from confluent_kafka import OFFSET_BEGINNING, TopicPartition  # noqa: PLC0415

    position = 0
    with closing(looker(connection)) as consumer, Reported():
        _, end = bounds(consumer, TopicPartition(topic, 0))
        begin_at(consumer, [TopicPartition(topic, 0, OFFSET_BEGINNING)])
        for message in until_end(consumer, end):
            position = json.loads(message.value() or b"{}")["position"]
    return position
