"""Copies what services, pipelines and the log keep, from SQLite to PostgreSQL and Kafka."""

import itertools
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from counterfoil.application import Application, StateFolder
from counterfoil.events import (
    Database,
    KafkaEvents,
    Pipeline,
    Record,
    create_all_tables,
    letters_collector,
    service_schema,
)
from counterfoil.events.embedded import EmbeddedLog
from counterfoil.events.sqlite import SqliteDatabase
from counterfoil.move.errors import MoveError

Tell = Callable[[str], None]
ROWS: Final = 10_000
"""Copied at once: some megabytes."""
_LOG_TABLES: Final = frozenset({"topics", "record_batches", "ends", "sources"})


def copy_events(
    application: Application, state: StateFolder, target: KafkaEvents, tell: Tell
) -> None:
    """Everything, into databases and topics that must be empty.

    Raises:
        MoveError: they are not.
    """
    for name, service in application.services.items():
        tell(f"service {name}")
        with closing(target.service(name)) as database:
            database.create(service_schema(service.schema))
            _copy_tables(state.service(name), database)
    tell("pipelines")
    with closing(target.pipelines()) as store:
        create_all_tables(store.database)
        _copy_tables(state.log, store.database, without=_LOG_TABLES)
    _copy_log(application, state.log, target, tell)


def _copy_log(application: Application, path: Path, target: KafkaEvents, tell: Tell) -> None:
    """Every record at its offset, so that stored positions stay true; then the outbox positions."""
    with closing(SqliteDatabase(path)) as database:
        source, log = EmbeddedLog(database, target.registry), target.log()
        log.declare(application.all_topics())
        for topic in application.all_topics():
            tell(f"topic {topic.name}")
            if any(log.ends(topic.name).values()):
                raise _not_empty(f"topic {topic.name}")
            partitions = range(topic.partitions)
            records = (_records(source, topic.name, number) for number in partitions)
            ends = source.ends(topic.name)
            log.copy(topic, itertools.chain.from_iterable(records), ends)
        for name, position in source.sources().items():
            with closing(log.appender(name, 0)) as appender:
                appender.append([], position)
        for name, pipeline in application.pipelines.items():
            if pipeline.stateless:  # its positions are Kafka's there, and no longer the database's
                log.continue_at(name, _positions(database, name))
                _note_listed(source, pipeline, target)


def _note_listed(source: EmbeddedLog, pipeline: Pipeline[Any], target: KafkaEvents) -> None:
    """Let what lists a stateless pipeline's dead letters begin behind those that are listed.

    On Kafka it reads them back from their topic, and would find each of them once more: those that
    were replayed or discarded, too, as if nobody had.
    """
    letters = pipeline.topics()[2].name
    with closing(target.pipelines()) as store:
        store.store_positions(letters_collector(pipeline.name), letters, source.ends(letters))


def _positions(database: Database, consumer: str) -> dict[tuple[str, int], int]:
    found = database.execute(
        "SELECT topic, partition, next FROM offsets WHERE consumer = ?", (consumer,)
    )
    return {(topic, partition): end for topic, partition, end in found}


def _records(source: EmbeddedLog, topic: str, partition: int) -> Iterator[Record]:
    offset = 0
    while records := source.read(topic, partition, offset, ROWS):
        yield from records
        offset = records[-1].offset + 1


def _copy_tables(path: Path, target: Database, without: frozenset[str] = frozenset()) -> None:
    """Every table of a file in one transaction, with its counters where they stood."""
    with (
        closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as source,
        target.transaction(),
    ):
        for (table,) in source.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
        ).fetchall():
            if table not in without:
                _copy_table(source, table, target)


def _copy_table(source: sqlite3.Connection, table: str, target: Database) -> None:
    if target.execute(f'SELECT 1 FROM "{table}" LIMIT 1').fetchone():  # noqa: S608
        raise _not_empty(f"table {table}")
    rows = source.execute(f'SELECT * FROM "{table}"')  # noqa: S608
    names = [column[0] for column in rows.description]
    columns = ", ".join(f'"{name}"' for name in names)
    marks = ", ".join("?" for _ in names)
    insert = f'INSERT INTO "{table}" ({columns}) VALUES ({marks})'  # noqa: S608
    while some := rows.fetchmany(ROWS):
        target.executemany(insert, some)
    for name in names:
        sequence = "SELECT pg_get_serial_sequence(?, ?)"
        (counter,) = target.execute(sequence, (f'"{table}"', name)).fetchone()
        if counter is not None:
            # Where SQLite's counter stands, and not the highest row: rows go, such as tasks that
            # are done, but their numbers never come again.
            (given,) = source.execute(
                "SELECT max(seq) FROM sqlite_sequence WHERE name = ?", (table,)
            ).fetchone()
            target.execute("SELECT setval(?, ?, ?)", (counter, given or 1, given is not None))


def _not_empty(what: str) -> MoveError:
    return MoveError(
        f"{what} is not empty on the new engines",
        hint="a move fills what is new: drop what an earlier try has left there",
    )
