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
"""Longer than a commit waits. The next term aborts what a dead process left open at once."""
MESSAGE_BYTES: Final = 1_048_000
"""Our producers' limit, just below the brokers' default (1,048,588); librdkafka's own default is
1,000,000. An event may have `EVENT_BYTES`; the rest is for headers, and for what a dead letter adds
to its event."""
SENDING: Final = MappingProxyType(
    {"compression.type": "lz4", "linger.ms": 5, "message.max.bytes": MESSAGE_BYTES}
)
GROUPS: Final = "counterfoil."
READER: Final = f"{GROUPS}none"
"""librdkafka needs a group, and asks for its coordinator, even if nothing is joined or committed.
"""
_ID: Final = "counterfoil-event-id"
_TIME: Final = "counterfoil-time-us"
_NUMBER: Final = msgspec.json.Decoder(
    Annotated[int, msgspec.Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
).decode
"""Parses a 64-bit integer, which the databases can store; twice as fast as `int` and a range check.
"""
_RIGHTS: Final = "docs/events.md has the ACLs that the user in [kafka] needs"
log = structlog.get_logger()
Answer = TypeVar("Answer")


def produce(producer: "Producer", topic: str, partition: int, message: Message | Record) -> None:
    """Hand a message to the producer, which sends it asynchronously.

    One at a time: `produce_batch` doesn't support headers (confluent-kafka 2.16).
    """
    headers: Any = {
        _ID: str(message.event_id),
        _TIME: str(message.timestamp_us),
        **message.headers,
    }
    while True:
        try:
            # Positional: keywords would take a tenth of the call. No callbacks; timestamp is now.
            producer.produce(topic, message.value, message.key, partition, None, None, 0, headers)
        except BufferError:  # the local queue is full: wait for some of it to be sent
            producer.poll(0.1)
        else:
            return


def give_up(producer: "Producer") -> None:
    """Close a transactional producer; the next one of its id aborts what it left open.

    A producer that was fenced, or has lost its cluster, can't abort its transaction. It then raises
    an error or warns, depending on its state, and is closed all the same.
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
    """The settings of a consumer that reads committed records."""
    return {
        **connection,
        "group.id": READER,
        "enable.auto.commit": False,
        "isolation.level": "read_committed",
        # Never skip silently to another offset if a position no longer exists.
        "auto.offset.reset": "error",
    }


def looker(connection: dict[str, Any]) -> "Consumer":
    """A consumer for one lookup, which gets an event at a partition's end."""
    from confluent_kafka import Consumer  # noqa: PLC0415

    return Consumer(
        {
            **reader_settings(connection),
            "enable.partition.eof": True,
            # An empty fetch tells the end; the broker holds it back for so long.
            "fetch.wait.max.ms": 10,
        }
    )


def once_led(ask: Callable[[], Answer]) -> Answer:
    """Ask about partitions; retry while one is unknown or has no leader."""
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
    """A partition's low and high watermark: the oldest record's offset, and the next one's."""
    return once_led(lambda: consumer.get_watermark_offsets(partition, timeout=CALL_SECONDS))


def begin_at(consumer: "Consumer", places: "list[TopicPartition]") -> None:
    """Assign partitions to a consumer, each from its offset or from `OFFSET_BEGINNING`.

    The beginnings are resolved here: the client itself asks before it is connected, and retries
    only half a second later.
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

    Waits for open transactions before `beyond`, which hide committed records after them. While
    others keep writing, the consumer may never report an end: reaching `beyond` is enough.
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
    """Convert a message to a record of `topic`, also if another producer has written it.

    Foreign keys and headers may be any bytes and must not stop readers: invalid UTF-8 is replaced,
    and an id or time that is missing or no 64-bit integer is 0.
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
    """Parse a number in a form that we don't write, such as `+5` or `007`."""
    try:
        return _NUMBER(b"%d" % int(value))
    except (ValueError, msgspec.DecodeError):
        return 0


def raise_for(message: "KafkaMessage") -> None:
    """Raise the error that a consumer returns in place of a message.

    Raises:
        KafkaException: the message is an error.
    """
    from confluent_kafka import KafkaException  # noqa: PLC0415

    error = message.error()
    if error is not None:
        raise KafkaException(error)


def unauthorised() -> frozenset[int]:
    """The error codes for missing rights."""
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
    """Turns Kafka's errors into `Fenced`, or into `other`."""

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
    """Log a client's connection error."""
    log.warning("kafka", error=str(error))
