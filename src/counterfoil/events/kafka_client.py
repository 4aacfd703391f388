"""Shared Kafka code: settings, messages, and translation of errors."""

import time
import warnings
from collections.abc import Callable, Iterable
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import msgspec
import structlog

from counterfoil.events.errors import EventsError, Fenced, LogUnavailable
from counterfoil.events.messages import Message, Record

if TYPE_CHECKING:
    from confluent_kafka import Consumer, Producer, TopicPartition
    from confluent_kafka import Message as KafkaMessage

CALL_SECONDS: Final = 10.0
FETCH_SECONDS: Final = 0.1
TRANSACTION_MS: Final = 30_000
"""Longer than a commit waits; what a dead process left open is aborted by the next term at once."""
MESSAGE_BYTES: Final = 1_048_000
"""What our producers send at most, just below what brokers take in their default (1,048,588); by
itself librdkafka refuses what is above 1,000,000. An event has `EVENT_BYTES`; the rest is for
headers, and for what a dead letter tells beside its event."""
SENDING: Final = MappingProxyType(
    {"compression.type": "lz4", "linger.ms": 5, "message.max.bytes": MESSAGE_BYTES}
)
GROUPS: Final = "counterfoil."
READER: Final = f"{GROUPS}none"
"""librdkafka asks for a group's coordinator even where nothing is joined or committed."""
_ID: Final = "counterfoil-event-id"
_TIME: Final = "counterfoil-time-us"
_NUMBER: Final = msgspec.json.Decoder(
    Annotated[int, msgspec.Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
).decode
"""Reads a number that the databases can keep, in half the time that `int` and a look at it take."""
_RIGHTS: Final = "docs/events.md has the ACLs that the user in [kafka] needs"
log = structlog.get_logger()
Answer = TypeVar("Answer")


def produce(producer: "Producer", topic: str, partition: int, message: Message | Record) -> None:
    """Hand a message to the producer, which sends it when it likes.

    One by one: `produce_batch` knows no headers (confluent-kafka 2.16).
    """
    headers: Any = {
        _ID: str(message.event_id),
        _TIME: str(message.timestamp_us),
        **message.headers,
    }
    while True:
        try:
            # By position: names would be a tenth of the call. No callbacks, and the time of now.
            producer.produce(topic, message.value, message.key, partition, None, None, 0, headers)
        except BufferError:  # the local queue is full: let some of it go first
            producer.poll(0.1)
        else:
            return


def give_up(producer: "Producer") -> None:
    """Close a transactional producer; what it left open is aborted by the next one of its id.

    A producer that has been fenced, or has lost its cluster, can't abort anything by itself. It
    says so with an error or a warning, depending on what it was about, and is closed all the same.
    """
    from confluent_kafka import KafkaException  # noqa: PLC0415

    producer.purge()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        try:
            producer.close()
        except KafkaException as error:
            log.info("left_to_next_term", error=str(error))


def reader_settings(connection: dict[str, Any]) -> dict[str, Any]:
    """A consumer that sees what is committed."""
    return {
        **connection,
        "group.id": READER,
        "enable.auto.commit": False,
        "isolation.level": "read_committed",
        # A position that is not there is never passed over in silence.
        "auto.offset.reset": "error",
    }


def looker(connection: dict[str, Any]) -> "Consumer":
    """A consumer for one look, which is told where a partition ends."""
    from confluent_kafka import Consumer  # noqa: PLC0415

    return Consumer(
        {
            **reader_settings(connection),
            "enable.partition.eof": True,
            # The end is told by a fetch that has found nothing, for which the broker waits so long.
            "fetch.wait.max.ms": 10,
        }
    )


def once_led(ask: Callable[[], Answer]) -> Answer:
    """What a question about partitions has for an answer, once all are known and have a leader."""
    from confluent_kafka import KafkaError, KafkaException  # noqa: PLC0415

    not_yet = (
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._UNKNOWN_PARTITION,
    )
    deadline = time.monotonic() + CALL_SECONDS
    while True:
        try:
            return ask()
        except KafkaException as error:
            if error.args[0].code() not in not_yet or time.monotonic() > deadline:
                raise
            time.sleep(FETCH_SECONDS)


def bounds(consumer: "Consumer", partition: "TopicPartition") -> tuple[int, int]:
    """The offset of a partition's oldest record, and the next one's."""
    return once_led(lambda: consumer.get_watermark_offsets(partition, timeout=CALL_SECONDS))


def begin_at(consumer: "Consumer", places: "list[TopicPartition]") -> None:
    """Let a consumer read partitions, each from its offset or its `OFFSET_BEGINNING` on.

    Where a partition begins is asked for here. The client by itself asks before it is connected,
    and once more only half a second later.
    """
    from confluent_kafka import OFFSET_BEGINNING  # noqa: PLC0415

    unread = [place for place in places if place.offset == OFFSET_BEGINNING]
    if unread:
        read = [place for place in places if place.offset != OFFSET_BEGINNING]
        begin = once_led(lambda: consumer.offsets_for_times(unread, timeout=CALL_SECONDS))
        places = read + begin
    consumer.assign(places)


def until_end(
    consumer: "Consumer", beyond: int = 0, patience_seconds: float = CALL_SECONDS
) -> "Iterable[KafkaMessage]":
    """The messages of the one assigned partition up to its end, which is at `beyond` at least.

    What is committed may be behind a transaction that is open, and is waited for then. Where others
    go on writing, the end may never be told: what reaches as far as `beyond` is enough.
    """
    from confluent_kafka import KafkaError  # noqa: PLC0415

    deadline = time.monotonic() + patience_seconds
    while True:
        message = consumer.poll(FETCH_SECONDS)
        if message is None:
            if time.monotonic() > deadline:
                raise LogUnavailable("Kafka did not answer in time")
            continue
        error = message.error()
        if error is not None and error.code() == KafkaError._PARTITION_EOF:
            if (message.offset() or 0) >= beyond:
                return
            continue
        raise_for(message)
        deadline = time.monotonic() + patience_seconds
        yield message
        if 0 < beyond <= (message.offset() or 0) + 1:
            return


def record_of(message: "KafkaMessage", topic: str) -> Record:
    """The record of `topic` that a message is, whoever has written it.

    Other producers' keys and headers may be any bytes, and must not stop those who read: what is no
    UTF-8 is replaced, an id or time that is no number of 64 bits is 0, as if there were none.
    """
    event_id = timestamp_us = 0
    headers: dict[str, str] = {}
    found: Any = message.headers()
    for name, value in found or ():
        if name == _ID:
            event_id = _number(value)
        elif name == _TIME:
            timestamp_us = _number(value)
        else:
            headers[name] = value.decode("utf-8", "replace") if value else ""
    key = message.key()
    return Record(
        topic,
        message.partition() or 0,
        message.offset() or 0,
        event_id,
        key.decode("utf-8", "replace") if key else "",
        message.value() or b"",
        headers,
        timestamp_us,
    )


def _number(value: bytes | None) -> int:
    try:
        return _NUMBER(value or b"0")
    except msgspec.DecodeError:
        return _foreign_number(value or b"0")


def _foreign_number(value: bytes) -> int:
    """A number as we don't write it, such as `+5` or `007`."""
    try:
        return _NUMBER(b"%d" % int(value))
    except (ValueError, msgspec.DecodeError):
        return 0


def raise_for(message: "KafkaMessage") -> None:
    """Raise what a consumer has to say in place of a message.

    Raises:
        KafkaException: it says something.
    """
    from confluent_kafka import KafkaException  # noqa: PLC0415

    error = message.error()
    if error is not None:
        raise KafkaException(error)


def unauthorised() -> frozenset[int]:
    """What brokers answer to users who may not."""
    from confluent_kafka import KafkaError  # noqa: PLC0415

    return frozenset(
        {
            KafkaError.TOPIC_AUTHORIZATION_FAILED,
            KafkaError.GROUP_AUTHORIZATION_FAILED,
            KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
            KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        }
    )


class Reported:
    """Turns Kafka's errors into ours: `Fenced`, or what the caller calls every other."""

    def __init__(self, other: type[EventsError] = LogUnavailable) -> None:
        self._other = other

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        from confluent_kafka import KafkaError, KafkaException  # noqa: PLC0415

        if not isinstance(error, KafkaException):
            return
        found: KafkaError = error.args[0]
        if found.code() in (
            KafkaError._FENCED,
            KafkaError.PRODUCER_FENCED,
            KafkaError.INVALID_PRODUCER_EPOCH,
        ):
            raise Fenced(f"Kafka: {found.str()}") from error
        hint = _RIGHTS if found.code() in unauthorised() else ""
        raise self._other(f"Kafka: {found.str()}", hint=hint) from error


def say(error: object) -> None:
    """Log what a client tells of its connections."""
    log.warning("kafka", error=str(error))
