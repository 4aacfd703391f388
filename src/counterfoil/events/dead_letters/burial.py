"""Turns events into dead letters, and names a pipeline's retry and dead-letter topics."""

import json
import traceback
from collections.abc import Iterable
from typing import Final

from counterfoil.events.identity import BEYOND
from counterfoil.events.messages import Message, Record
from counterfoil.events.pipeline_store import PipelineStore
from counterfoil.events.storable import storable

TRACEBACK_LIMIT: Final = 8_000
"""Maximum characters of a traceback in a dead letter."""
ERROR_LIMIT: Final = 2_000
"""Maximum characters of an error in a dead letter. With both limits, a letter of the largest event
is small enough for Kafka's brokers (`kafka_client.MESSAGE_BYTES`)."""
STREAM: Final = "counterfoil-stream"
"""The header of a dead letter that names its event's topic if that is not the pipeline's source:
all letters come back through the same retry topic."""
_ERROR: Final = "error"
_TRACEBACK: Final = "dead-letter-traceback"
_TRIES: Final = "dead-letter-tries"
_SOURCE: Final = "dead-letter-source"


def letter(pipeline: str, record: Record, error: Exception, *, tries: int, now_us: int) -> Message:
    """The message on the dead-letter topic for a record that could not be handled."""
    headers = {
        **record.headers,
        _ERROR: storable(f"{type(error).__name__}: {error}"[:ERROR_LIMIT]),
        _TRACEBACK: storable("".join(traceback.format_exception(error))[-TRACEBACK_LIMIT:]),
        _TRIES: str(tries),
        _SOURCE: f"{record.topic}/{record.partition}/{record.offset}",
    }
    key = storable(record.key)
    return Message(record.event_id, dead_letter_topic(pipeline), key, record.value, headers, now_us)


def bury(
    store: PipelineStore,
    pipeline: str,
    record: Record,
    error: Exception,
    *,
    tries: int,
    now_us: int,
) -> Message:
    """Store a dead letter, in the caller's transaction.

    Returns its message on the dead-letter topic, for the caller to send with its commit.
    """
    told = letter(pipeline, record, error, tries=tries, now_us=now_us)
    keep(store, pipeline, [told])
    return told


def keep(store: PipelineStore, pipeline: str, letters: Iterable[Message | Record]) -> int:
    """Store letters from a dead-letter topic, in the caller's transaction.

    Returns how many records were no letters of ours. They are skipped: foreign producers may write
    to the topic, and must not stop its readers.
    """
    found = [_row(pipeline, each) for each in letters]
    rows = [row for row in found if row is not None]
    store.database.executemany(
        'INSERT INTO dead_letters (pipeline, topic, partition, "offset", event_id, key, value, '
        "headers, error, traceback, tries, failed_us) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        rows,
    )
    return len(found) - len(rows)


def retry_topic(pipeline: str) -> str:
    """The topic of events to retry, which a pipeline reads beside its source."""
    return f"{pipeline}.retries"


def dead_letter_topic(pipeline: str) -> str:
    """The topic on which any tool can watch a pipeline's dead letters."""
    return f"{pipeline}.dead-letters"


def _row(pipeline: str, each: Message | Record) -> tuple[object, ...] | None:
    """The row of `dead_letters` for a letter; None if its headers are missing or invalid."""
    headers = dict(each.headers)
    try:
        topic, partition, offset = headers.pop(_SOURCE).rsplit("/", 2)
        error, trace, tries = (headers.pop(name) for name in (_ERROR, _TRACEBACK, _TRIES))
        numbers = int(partition), int(offset), int(tries)
    except (KeyError, ValueError):
        return None
    if not all(0 <= number < BEYOND for number in numbers):
        return None
    return (
        pipeline,
        storable(topic),
        *numbers[:2],
        each.event_id,
        storable(each.key),
        each.value,
        json.dumps(headers),
        storable(error),
        storable(trace),
        numbers[2],
        each.timestamp_us,
    )
