"""Copies tables from SQLite to a PostgreSQL schema, and verifies their row counts.

Most tables are created when the schema is opened. Others belong to the application: handlers create
tables beside the pipelines' own, and users beside those of a service. These are created with their
SQLite definitions.
"""

import sqlite3
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from counterfoil.events import Database, EventsError
from counterfoil.move.errors import MoveError

ROWS: Final = 10_000
"""Rows copied at once: some megabytes."""


def filled_table(target: Database) -> str | None:
    """The name of a table with rows, if there is one."""
    for table in _tables(target):
        if target.execute(f'SELECT 1 FROM "{table}" LIMIT 1').fetchone():  # noqa: S608
            return table
    return None


def copy_tables(path: Path, target: Database, without: frozenset[str]) -> dict[str, int]:
    """Copy every table of a file, with the positions of its counters, in one transaction.

    The target's tables are emptied first: rows inserted by migrations are in the file, too. Returns
    the row count of each table, verified on both sides.

    Raises:
        MoveError: a table can't be created or filled, or lacks a column; nothing was copied.
    """
    copied: dict[str, int] = {}
    with (
        closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as source,
        target.transaction(),
    ):
        if there := ", ".join(f'"{table}"' for table in _tables(target)):
            target.execute(f"TRUNCATE TABLE {there}")
        for table, definition in source.execute(
            "SELECT name, sql FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
        ).fetchall():
            if table not in without:
                with _named_on_failure(table):
                    name = _found(table, target) or _made(table, definition, source, target)
                    copied[table] = _copy_table(source, table, target, name)
    return copied


def _tables(target: Database) -> list[str]:
    found = target.execute(
        "SELECT tablename FROM pg_tables WHERE schemaname = current_schema() ORDER BY tablename"
    )
    return [table for (table,) in found.fetchall()]


@contextmanager
def _named_on_failure(table: str) -> Generator[None, None, None]:
    import psycopg  # noqa: PLC0415 - an extra

    try:
        yield
    except (psycopg.DatabaseError, EventsError) as error:
        if isinstance(error, psycopg.OperationalError):
            raise
        raise MoveError(
            f"table {table} can't be carried over: {error}",
            hint="correct what it names, in the table or where it is made, and move again",
        ) from error


def _found(table: str, target: Database) -> str | None:
    """The table's name in PostgreSQL, which folds unquoted names to lower case."""
    for name in (table, table.lower()):
        (found,) = target.execute("SELECT to_regclass(?)", (f'"{name}"',)).fetchone()
        if found is not None:
            return name
    return None


def _made(table: str, definition: str, source: sqlite3.Connection, target: Database) -> str:
    """Create a table from its SQLite definition, with its indexes."""
    indexes = source.execute(
        "SELECT sql FROM sqlite_master WHERE type = 'index' AND tbl_name = ? AND sql IS NOT NULL",
        (table,),
    )
    for statement in (definition, *(sql for (sql,) in indexes)):
        target.execute(statement)
    name = _found(table, target)
    assert name is not None, "it was made just now"
    return name


def _copy_table(source: sqlite3.Connection, table: str, target: Database, name: str) -> int:
    rows = source.execute(f'SELECT * FROM "{table}"')  # noqa: S608
    columns = _columns(table, [column[0] for column in rows.description], target, name)
    listed, marks = ", ".join(f'"{each}"' for each in columns), ", ".join("?" for _ in columns)
    insert = f'INSERT INTO "{name}" ({listed}) VALUES ({marks})'  # noqa: S608
    number = 0
    while some := rows.fetchmany(ROWS):
        target.executemany(insert, some)
        number += len(some)
    (found,) = target.execute(f'SELECT count(*) FROM "{name}"').fetchone()  # noqa: S608
    if found != number:
        raise MoveError(f"table {table} has {number:,} rows here and {found:,} on PostgreSQL")
    for column in columns:
        sequence = "SELECT pg_get_serial_sequence(?, ?)"
        (counter,) = target.execute(sequence, (f'"{name}"', column)).fetchone()
        if counter is not None:
            # SQLite's counter, not the highest id: rows are deleted, such as completed tasks, but
            # their ids must never be reused.
            (given,) = source.execute(
                "SELECT max(seq) FROM sqlite_sequence WHERE name = ?", (table,)
            ).fetchone()
            target.execute("SELECT setval(?, ?, ?)", (counter, given or 1, given is not None))
    return number


def _columns(table: str, names: list[str], target: Database, there: str) -> list[str]:
    """The columns' names in PostgreSQL, in SQLite's order."""
    known = {
        column
        for (column,) in target.execute(
            "SELECT attname FROM pg_attribute "
            "WHERE attrelid = to_regclass(?) AND attnum > 0 AND NOT attisdropped",
            (f'"{there}"',),
        ).fetchall()
    }
    found: list[str] = []
    for name in names:
        column = name if name in known else name.lower()
        if column not in known:
            raise MoveError(
                f"table {table} has a column {name} here, and none where it is made anew",
                hint="add it to what makes the table (a service's schema), and move again",
            )
        found.append(column)
    return found
