"""What all that speaks with Kafka needs: settings, messages, and our words for its errors."""

import time
from collections.abc import Iterable
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import structlog

from counterfoil.events.errors import EventsError, Fenced, LogUnavailable
from counterfoil.events.messages import Message, Record

if TYPE_CHECKING:
    from confluent_kafka import Consumer, Producer
    from confluent_kafka import Message as KafkaMessage

CALL_SECONDS: Final = 10.0
FETCH_SECONDS: Final = 0.1
TRANSACTION_MS: Final = 30_000
"""Longer than a commit waits; what a dead process left open is aborted by the next term at once."""
SENDING: Final = MappingProxyType({"compression.type": "lz4", "linger.ms": 5})
_ID: Final = "counterfoil-event-id"
_TIME: Final = "counterfoil-time-us"
log = structlog.get_logger()


def produce(producer: "Producer", topic: str, partition: int, message: Message | Record) -> None:
    """Hand a message to the producer, which sends it when it likes."""
    headers: Any = [
        (_ID, str(message.event_id)),
        (_TIME, str(message.timestamp_us)),
        *message.headers.items(),
    ]
    key = message.key.encode()
    while True:
        try:
            producer.produce(topic, message.value, key, partition, headers=headers)
        except BufferError:  # the local queue is full: let some of it go first
            producer.poll(0.1)
        else:
            return


def reader_settings(connection: dict[str, Any]) -> dict[str, Any]:
    """A consumer that sees what is committed; its group is a name that librdkafka asks for."""
    return {
        **connection,
        "group.id": "counterfoil.none",
        "enable.auto.commit": False,
        "isolation.level": "read_committed",
        # A position that is not there is never passed over in silence.
        "auto.offset.reset": "error",
    }


def looker(connection: dict[str, Any]) -> "Consumer":
    """A consumer for one look, which is told where a partition ends."""
    from confluent_kafka import Consumer  # noqa: PLC0415

    return Consumer({**reader_settings(connection), "enable.partition.eof": True})


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
    """The record of `topic` that a message is."""
    event_id = timestamp_us = 0
    headers: dict[str, str] = {}
    found: Any = message.headers()
    for name, value in found or ():
        if name == _ID:
            event_id = int(value)
        elif name == _TIME:
            timestamp_us = int(value)
        else:
            headers[name] = value.decode() if value else ""
    return Record(
        topic,
        message.partition() or 0,
        message.offset() or 0,
        event_id,
        (message.key() or b"").decode(),
        message.value() or b"",
        headers,
        timestamp_us,
    )


def raise_for(message: "KafkaMessage") -> None:
    """Raise what a consumer has to say in place of a message.

    Raises:
        KafkaException: it says something.
    """
    from confluent_kafka import KafkaException  # noqa: PLC0415

    error = message.error()
    if error is not None:
        raise KafkaException(error)


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
        raise self._other(f"Kafka: {found.str()}") from error


def say(error: object) -> None:
    """Log what a client tells of its connections."""
    log.warning("kafka", error=str(error))
