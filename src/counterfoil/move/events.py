"""Copies services, pipelines and the log from SQLite to PostgreSQL and Kafka."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Final

import msgspec

from counterfoil.application import Application, Service, StateFolder
from counterfoil.events import (
    Database,
    KafkaEvents,
    Pipeline,
    Record,
    applied,
    create_all_tables,
    create_service,
    letters_collector,
)
from counterfoil.events.embedded import EmbeddedLog
from counterfoil.events.log import FETCH_BYTES
from counterfoil.events.migrations import SCHEMA as MIGRATIONS
from counterfoil.events.sqlite import SqliteDatabase
from counterfoil.move.errors import MoveError
from counterfoil.move.tables import copy_tables, filled_table

Tell = Callable[[str], None]
RECORDS: Final = 10_000
"""Records read at once: some megabytes."""
NAMED: Final = 3
"""Tables and topics that an error names, of those that are not empty."""
_LOG_TABLES: Final = frozenset({"topics", "record_batches", "ends", "sources"})


class Carried(msgspec.Struct, frozen=True):
    """The amounts carried over, which are equal on both sides."""

    tables: int
    rows: int
    topics: int
    records: int
    """Up to the end of each partition, including those deleted by retention."""


def copy_events(
    application: Application, state: StateFolder, target: KafkaEvents, tell: Tell
) -> Carried:
    """Copy everything, into databases and topics that must be empty.

    Raises:
        MoveError: they are not empty, in which case nothing was written; or a table can't be
            created or filled.
    """
    with ExitStack() as stack:
        databases: list[tuple[str, Path, Database]] = []
        for name in application.services:
            database = stack.enter_context(closing(target.service(name)))
            databases.append((f"service {name}", state.service(name), database))
        store = stack.enter_context(closing(target.pipelines()))
        databases.append(("pipelines", state.log, store.database))
        _refuse_filled(application, databases, target)
        for service, (_, path, database) in zip(
            application.services.values(), databases[:-1], strict=True
        ):
            _make_tables(service, path, database)
        create_all_tables(store.database)
        rows: list[int] = []
        for name, path, database in databases:
            tell(name)
            rows += copy_tables(path, database, _LOG_TABLES).values()
    records = _copy_log(application, state.log, target, tell)
    return Carried(len(rows), sum(rows), len(application.all_topics()), records)


def _refuse_filled(
    application: Application, databases: list[tuple[str, Path, Database]], target: KafkaEvents
) -> None:
    """Refuse existing data: it belongs to others, or was left by a move that failed."""
    found: list[str] = []
    for name, _, database in databases:
        table = filled_table(database)
        if table is not None:
            found.append(f"table {table} of {name}")
    log = target.log()
    found += [
        f"topic {topic.name}"
        for topic in application.all_topics()
        if any(log.ends(topic.name).values())
    ]
    if found:
        schemas = ", ".join(
            f'"{application.name}.{each}"' for each in (*application.services, target.PIPELINES)
        )
        more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
        raise MoveError(
            f"not empty on the new engines: {', '.join(found[:NAMED])}{more}",
            hint="a move fills what is new. If an earlier try has left it there, and nobody else: "
            f"DROP SCHEMA {schemas} CASCADE in PostgreSQL, delete the topics that begin with "
            f"{application.name}. in Kafka, and move again",
        )


def _make_tables(service: Service, path: Path, target: Database) -> None:
    """Create a service's tables with as many migrations as were applied here.

    The next start applies the others to the data then there.
    """
    with closing(SqliteDatabase(path)) as source:
        source.create([MIGRATIONS])
        known = len(applied(source))
        if known > len(service.migrations) + 1:
            raise MoveError(
                f"service {service.name} has migrations that this application doesn't know",
                hint="move with the version that has them",
            )
        migrations = service.migrations[: max(known - 1, 0)]
        create_service(source, service.schema, migrations, _no_time)  # sees that they are the same
    create_service(target, service.schema, migrations, _no_time)


def _no_time() -> int:
    """A placeholder for the time of a migration, until the real one is copied."""
    return 0


def _copy_log(application: Application, path: Path, target: KafkaEvents, tell: Tell) -> int:
    """Copy every record to the same offset, so that positions stay valid; then outbox positions.

    Returns the sum of the ends of all partitions.
    """
    number = 0
    with closing(SqliteDatabase(path)) as database:
        source, log = EmbeddedLog(database, target.registry), target.log()
        log.declare(application.all_topics())
        for topic in application.all_topics():
            tell(f"topic {topic.name}")
            partitions = range(topic.partitions)
            records = (_records(source, topic.name, number) for number in partitions)
            ends = source.ends(topic.name)
            log.copy(topic, itertools.chain.from_iterable(records), ends)
            number += sum(ends.values())
        for name, position in source.sources().items():
            with closing(log.appender(name, 0)) as appender:
                appender.append([], position)
        for name, pipeline in application.pipelines.items():
            if pipeline.stateless:  # on Kafka, its positions are in Kafka, not in the database
                log.continue_at(name, _positions(database, name))
                _note_listed(source, pipeline, target)
        declared = {topic.name for topic in application.all_topics()}
        for (name,) in database.execute("SELECT name FROM topics ORDER BY name").fetchall():
            if name not in declared:
                tell(f"left behind: topic {name}, which is not declared any more")
    return number


def _note_listed(source: EmbeddedLog, pipeline: Pipeline[Any], target: KafkaEvents) -> None:
    """Start the collector of a stateless pipeline's dead letters behind those already listed.

    On Kafka it reads them from their topic, and would list each of them again, even those that
    were replayed or discarded.
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
    while records := source.read(topic, partition, offset, RECORDS, limit_bytes=FETCH_BYTES):
        yield from records
        offset = records[-1].offset + 1
