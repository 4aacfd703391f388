"""Rows of tables that a pipeline looks things up in: the newest event of each key of a topic.

They are part of the pipeline's keyed state, its own copy, and are committed with the positions of
their topics and of the events that look them up. An event without content, or `null`, takes a row
away, as in a compacted topic of Kafka.
"""

from collections.abc import Iterable
from typing import Final, TypeVar

import msgspec

from counterfoil.events.messages import Record
from counterfoil.events.state import OWN, State
from counterfoil.events.topics import AnyTopic, Topic

R = TypeVar("R")
_GONE: Final = (b"", b"null")
_BURIED: Final = "counterfoil-table"
"""The header by which the dead letter of a row is known when it is replayed."""


def keep(state: State, table: AnyTopic, record: Record) -> None:
    """Take a record of a table's topic in.

    Raises:
        msgspec.DecodeError, UnicodeDecodeError: it is not a row of this table.
    """
    place = _place(table, record.key)
    if record.value in _GONE:
        state.delete(place)
        return
    table.decode(record.value)
    state.put(place, record.value)


def find(state: State, table: Topic[R], key: str) -> R | None:
    """The row under a key, or None."""
    found = state.get(_place(table, key))
    return None if found is None else table.decode(found)


def buried(record: Record) -> Record:
    """A row that can't be read, in the shape of a dead letter."""
    return msgspec.structs.replace(record, headers={**record.headers, _BURIED: record.topic})


def table_of(record: Record, tables: Iterable[AnyTopic]) -> AnyTopic | None:
    """The table that a record is a row of, or the dead letter of one; None if it is an event's."""
    name = record.headers.get(_BURIED, record.topic)
    return next((table for table in tables if table.name == name), None)


def _place(table: AnyTopic, key: str) -> str:
    return f"{OWN}table {table.name} {key}"
