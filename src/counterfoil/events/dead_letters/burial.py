"""How an event becomes a dead letter, and the topics that belong to a pipeline's letters."""

import json
import traceback
from typing import Final

from counterfoil.events.messages import Message, Record
from counterfoil.events.pipeline_store import PipelineStore

TRACEBACK_LIMIT: Final = 8_000
"""Characters of a traceback that a dead letter keeps."""


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
    trace = _storable("".join(traceback.format_exception(error))[-TRACEBACK_LIMIT:])
    said = _storable(f"{type(error).__name__}: {error}")
    store.database.execute(
        'INSERT INTO dead_letters (pipeline, topic, partition, "offset", event_id, key, value, '
        "headers, error, traceback, tries, failed_us) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            pipeline,
            record.topic,
            record.partition,
            record.offset,
            record.event_id,
            record.key,
            record.value,
            json.dumps(record.headers),
            said,
            trace,
            tries,
            now_us,
        ),
    )
    headers = {**record.headers, "error": said}
    return Message(
        record.event_id, dead_letter_topic(pipeline), record.key, record.value, headers, now_us
    )


def retry_topic(pipeline: str) -> str:
    """The topic that a pipeline reads beside its source: what is to be tried again."""
    return f"{pipeline}.retries"


def dead_letter_topic(pipeline: str) -> str:
    """The topic on which a pipeline's dead letters can be watched, by any tool."""
    return f"{pipeline}.dead-letters"


def _storable(text: str) -> str:
    """What both databases keep as text: a letter must be buried, whatever its error says."""
    return text.replace("\0", "\ufffd").encode(errors="replace").decode()
