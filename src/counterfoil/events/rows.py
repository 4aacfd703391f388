"""Lookup tables of a pipeline: the newest event of each key of a topic.

They are part of the pipeline's keyed state, its own copy, and are committed with the positions of
their topics and of the events that look them up. An event without content, or `null`, takes a row
away, as in a compacted topic of Kafka.

Each process of a pipeline has a copy of its own, of all partitions, with positions of its own: an
event may look up any key, and what a process has taken in no other one can be late with. A dead
letter of a row is one letter, and goes into all copies when it is replayed.
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
"""The header by which the dead letter of a row is known when it is replayed."""


def keep(state: State, table: AnyTopic, record: Record, copies: Iterable[Share] = (ALL,)) -> None:
    """Take a record of a table's topic in, into the copies of some processes.

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
    """The row under a key in the copy of a process, or None."""
    found = state.get(_place(table, key, copy))
    return None if found is None else table.decode(found)


def drop_copies(database: Database, pipeline: str, tables: Iterable[AnyTopic], of: int) -> None:
    """Forget the copies of processes when there were not `of` of them, in the caller's transaction.

    A later term with as many would otherwise go on with them from long ago.
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
    """A row that can't be read, in the shape of a dead letter."""
    return msgspec.structs.replace(record, headers={_BURIED: record.topic, **record.headers})


def table_of(record: Record, tables: Iterable[AnyTopic]) -> AnyTopic | None:
    """The table that a record is a row of, or the dead letter of one; None if it is an event's."""
    name = record.headers.get(_BURIED, record.topic)
    return next((table for table in tables if table.name == name), None)


def is_buried(record: Record) -> bool:
    """Whether a record is the dead letter of a row."""
    return _BURIED in record.headers


def _place(table: AnyTopic, key: str, copy: Share) -> str:
    return f"{OWN}table{copy.name} {table.name} {key}"
