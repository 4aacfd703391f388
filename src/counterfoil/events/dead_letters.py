"""Dead letters: what no handler could take, kept whole until somebody decides.

A replay sends the letter to the retry topic of the pipeline that failed, and marks it in the same
commit. It never goes back to the source topic, where the pipelines that had no trouble with it
would handle it a second time.
"""

import json
import traceback
from builtins import list as List
from typing import Any, Final

import msgspec

from counterfoil.events.errors import NoSuchDeadLetter
from counterfoil.events.messages import Message, Record
from counterfoil.events.pipeline_store import PipelineStore

_COLUMNS = (
    'id, pipeline, topic, partition, "offset", event_id, key, value, headers, error, traceback, '
    "tries, failed_us, replayed_us"
)
TRACEBACK_LIMIT: Final = 8_000
"""Characters of a traceback that a dead letter keeps."""


class DeadLetter(msgspec.Struct, frozen=True):
    """A dead letter with its error and where it came from."""

    id: int
    pipeline: str
    topic: str
    partition: int
    offset: int
    event_id: int
    key: str
    value: bytes
    headers: dict[str, str]
    error: str
    traceback: str
    tries: int
    failed_us: int
    replayed_us: int | None


class DeadLetters:
    """The dead letters of all pipelines of a store."""

    def __init__(self, store: PipelineStore) -> None:
        self._store = store
        self._database = store.database

    def list(self, *, pipeline: str | None = None, limit: int = 100) -> List[DeadLetter]:
        """The newest dead letters, of one pipeline or of all."""
        where, given = ("", ()) if pipeline is None else ("WHERE pipeline = ? ", (pipeline,))
        return [
            _letter(row)
            for row in self._database.execute(
                f"SELECT {_COLUMNS} FROM dead_letters {where}ORDER BY id DESC LIMIT ?",  # noqa: S608
                (*given, limit),
            )
        ]

    def show(self, number: int) -> DeadLetter:
        """One dead letter.

        Raises:
            NoSuchDeadLetter: there is none with this number.
        """
        row = self._database.execute(
            f"SELECT {_COLUMNS} FROM dead_letters WHERE id = ?",  # noqa: S608
            (number,),
        ).fetchone()
        if row is None:
            raise NoSuchDeadLetter(
                f"there is no dead letter {number}", hint="see `counterfoil events dlq list`"
            )
        return _letter(row)

    def replay(self, number: int, now_us: int) -> None:
        """Hand a dead letter to its pipeline again, once.

        Raises:
            NoSuchDeadLetter: there is none with this number, or it was replayed before.
        """
        with self._database.transaction():
            letter = self.show(number)
            marked = self._database.execute(
                "UPDATE dead_letters SET replayed_us = ? WHERE id = ? AND replayed_us IS NULL",
                (now_us, number),
            )
            if marked.rowcount == 0:
                raise NoSuchDeadLetter(f"dead letter {number} was replayed before")
            headers = {**letter.headers, "dead-letter": str(number)}
            again = retry_topic(letter.pipeline)
            self._store.send(
                [Message(letter.event_id, again, letter.key, letter.value, headers, now_us)]
            )


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
    """What every database keeps as text: a letter must be buried, whatever its error says."""
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def _letter(row: tuple[Any, ...]) -> DeadLetter:
    values = List(row)
    values[8] = json.loads(values[8])
    return DeadLetter(*values)
