"""Turns an event into a dead letter; the topics that belong to a pipeline's letters."""

import json
import traceback
from collections.abc import Iterable
from typing import Final

from counterfoil.events.identity import BEYOND
from counterfoil.events.messages import Message, Record
from counterfoil.events.pipeline_store import PipelineStore
from counterfoil.events.storable import storable

TRACEBACK_LIMIT: Final = 8_000
"""Characters of a traceback that a dead letter keeps."""
ERROR_LIMIT: Final = 2_000
"""Characters of an error that a dead letter keeps. With the traceback's they leave a letter of the
largest event small enough for Kafka's brokers (`kafka_client.MESSAGE_BYTES`)."""
STREAM: Final = "counterfoil-stream"
"""The header of a dead letter that tells which of a pipeline's topics its event is of, where that
is not the source: it comes back by the retry topic, as those of the source do."""
_ERROR: Final = "error"
_TRACEBACK: Final = "dead-letter-traceback"
_TRIES: Final = "dead-letter-tries"
_SOURCE: Final = "dead-letter-source"


def letter(pipeline: str, record: Record, error: Exception, *, tries: int, now_us: int) -> Message:
    """What tells of a record that could not be handled, on the dead-letter topic."""
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
    """Keep what could not be handled, in the caller's transaction.

    Returns what tells of it on the dead-letter topic, for the caller to send with its commit.
    """
    told = letter(pipeline, record, error, tries=tries, now_us=now_us)
    keep(store, pipeline, [told])
    return told


def keep(store: PipelineStore, pipeline: str, letters: Iterable[Message | Record]) -> int:
    """Keep what a dead-letter topic tells, in the caller's transaction.

    Returns how many records were no letters of ours and are passed over: others may write to the
    topic, and what they write must stop nobody who reads it.
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
    """The topic that a pipeline reads beside its source: what is to be tried again."""
    return f"{pipeline}.retries"


def dead_letter_topic(pipeline: str) -> str:
    """The topic on which a pipeline's dead letters can be watched, by any tool."""
    return f"{pipeline}.dead-letters"


def _row(pipeline: str, each: Message | Record) -> tuple[object, ...] | None:
    """The row of `dead_letters` for a letter; None if it lacks what makes it one."""
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
