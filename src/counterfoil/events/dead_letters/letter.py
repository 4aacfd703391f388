"""A dead letter as read from the database."""

import json
from contextlib import suppress
from typing import Any, Literal

import msgspec

from counterfoil.events.dead_letters.burial import STREAM, retry_topic
from counterfoil.events.errors import UNREADABLE, StoreUnavailable
from counterfoil.events.messages import Record
from counterfoil.events.topics import AnyTopic

State = Literal["waiting", "replayed", "discarded"]
COLUMNS = (
    'd.id, d.pipeline, d.topic, d.partition, d."offset", d.event_id, d.key, d.value, d.headers, '
    "d.error, d.traceback, d.tries, d.failed_us, d.replayed_us, d.discarded_us, "
    "(SELECT e.value FROM dead_letter_audit AS e WHERE e.letter = d.id AND e.value IS NOT NULL "
    "ORDER BY e.id DESC LIMIT 1)"
)


class DeadLetter(msgspec.Struct, frozen=True):
    """A dead letter with its error and where it came from; times in microseconds since 1970."""

    id: int
    pipeline: str
    topic: str
    partition: int
    offset: int
    event_id: int
    key: str
    value: bytes
    """The original value; edits don't change it."""
    headers: dict[str, str]
    error: str
    traceback: str
    tries: int
    failed_us: int
    replayed_us: int | None
    discarded_us: int | None = None
    replacement: bytes | None = None
    """The value of the last edit, if there was one."""

    @property
    def state(self) -> State:
        """Whether it waits, was replayed or was discarded."""
        if self.replayed_us is not None:
            return "replayed"
        return "waiting" if self.discarded_us is None else "discarded"

    @property
    def stream(self) -> str:
        """Its event's topic, also if it came back through the retry topic and failed again."""
        came_back = self.topic == retry_topic(self.pipeline)
        return self.headers.get(STREAM, self.topic) if came_back else self.topic

    @property
    def payload(self) -> bytes:
        """The value that a replay uses."""
        return self.value if self.replacement is None else self.replacement

    @property
    def record(self) -> Record:
        """The event for its handler, at the offset where it failed."""
        headers = {**self.headers, "dead-letter": str(self.id)}
        return Record(
            self.topic,
            self.partition,
            self.offset,
            self.event_id,
            self.key,
            self.payload,
            headers,
            self.failed_us,
        )


def letter_of(row: tuple[Any, ...]) -> DeadLetter:
    """A letter from a row of `COLUMNS`."""
    values = list(row)
    values[8] = json.loads(values[8])
    return DeadLetter(*values)


def readable(value: bytes, topic: AnyTopic | None = None) -> msgspec.Raw | str:
    """A value for display and JSON documents: unchanged if it is JSON, else as text.

    It is not converted, so integers of any size stay exact; bytes that are no UTF-8 are escaped as
    `\\xNN`. An event of a `topic` in another format is shown as JSON.
    """
    if topic is not None:
        with suppress(*UNREADABLE, StoreUnavailable):  # then the raw value is shown
            value = topic.to_json(value)
    try:
        msgspec.json.decode(value, type=msgspec.Raw)
        text = value.decode()
    except UNREADABLE:
        return value.decode(errors="backslashreplace")
    return msgspec.Raw(text.encode())


def document(letter: DeadLetter, topic: AnyTopic | None = None) -> dict[str, Any]:
    """A letter as a JSON document, with its state; values are JSON if possible."""
    replacement = letter.replacement
    return {
        **msgspec.structs.asdict(letter),
        "value": readable(letter.value, topic),
        "replacement": None if replacement is None else readable(replacement, topic),
        "state": letter.state,
    }
