"""Lookup tables of a pipeline: the newest event of each key of a topic.

They are part of the pipeline's keyed state, as its own copy, and are committed with the positions
of their topics and of the events that look them up. An event that is empty or `null` deletes a row,
as in a compacted topic of Kafka.

Each process of a pipeline has its own copy, of all partitions, with its own positions: an event may
look up any key, and must not depend on another process's progress. A row that can't be read makes
one dead letter, which is applied to all copies when it is replayed.
"""

import re
from collections.abc import Iterable
from typing import Final, TypeVar

import msgspec

from counterfoil.events.database import Database
from counterfoil.events.messages import Record
from counterfoil.events.shares import ALL, Share
from counterfoil.events.state import OWN, State
from counterfoil.events.topics import AnyTopic, Topic

R = TypeVar("R")
_GONE: Final = (b"", b"null")
_BURIED: Final = "counterfoil-table"
"""The header that marks the dead letter of a row."""


def keep(state: State, table: AnyTopic, record: Record, copies: Iterable[Share] = (ALL,)) -> None:
    """Apply a record of a table's topic to the copies of some processes.

    Raises:
        msgspec.DecodeError, UnicodeDecodeError: it is not a row of this table.
    """
    gone = record.value in _GONE
    if not gone:
        table.decode(record.value)
    for copy in copies:
        place = _place(table, record.key, copy)
        if gone:
            state.delete(place)
        else:
            state.put(place, record.value)


def find(state: State, table: Topic[R], key: str, copy: Share = ALL) -> R | None:
    """The row of a key in a process's copy, or None."""
    found = state.get(_place(table, key, copy))
    return None if found is None else table.decode(found)


def drop_copies(database: Database, pipeline: str, tables: Iterable[AnyTopic], of: int) -> None:
    """Delete the copies of layouts with other than `of` processes, in the caller's transaction.

    A later term in such a layout would otherwise continue with outdated copies.
    """
    names = [table.name for table in tables]
    found = database.execute("SELECT DISTINCT consumer, topic FROM offsets").fetchall()
    for consumer, topic in found:
        match = re.fullmatch(rf"{re.escape(pipeline)}(?:\.(\d+)-of-(\d+))?", consumer)
        if topic not in names or match is None or int(match[2] or 1) == of:
            continue
        copy = consumer.removeprefix(pipeline)
        database.execute(
            "DELETE FROM state WHERE pipeline = ? AND key LIKE ?",
            (pipeline, f"{OWN}table{copy} %"),
        )
        database.execute("DELETE FROM offsets WHERE consumer = ? AND topic = ?", (consumer, topic))


def buried(record: Record) -> Record:
    """A row that can't be read, as the record of a dead letter."""
    return msgspec.structs.replace(record, headers={_BURIED: record.topic, **record.headers})


def table_of(record: Record, tables: Iterable[AnyTopic]) -> AnyTopic | None:
    """The table of a record that is a row or the dead letter of one; None for an event."""
    name = record.headers.get(_BURIED, record.topic)
    return next((table for table in tables if table.name == name), None)


def is_buried(record: Record) -> bool:
    """Whether a record is the dead letter of a row."""
    return _BURIED in record.headers


def _place(table: AnyTopic, key: str, copy: Share) -> str:
    return f"{OWN}table{copy.name} {table.name} {key}"
