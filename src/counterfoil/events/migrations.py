"""Schema migrations of a service: in order, each once, atomically.

A migration's number is its index in the list that the application declares; the service's initial
tables, its `schema`, are number 0. Each is applied in its own transaction, together with the row
that records it: a crash leaves nothing of it, as DDL is transactional in both databases. Several
processes may start at once: one holds a lock from reading the records until its commit, so the
others find the migration done. On PostgreSQL that is an advisory lock, on SQLite the write lock.

The recorded migrations must match the declared ones, by the checksums of their statements;
otherwise two databases of one application could differ unnoticed. A database that is ahead of its
application is rejected too, unless all migrations that the application doesn't know were declared
to `expand` the tables: then the previous version works with them.
"""

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from counterfoil import faults
from counterfoil.events.database import Database
from counterfoil.events.errors import MigrationRefused, StoreUnavailable
from counterfoil.events.scripts import bare, statements

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS migrations (
    number INTEGER PRIMARY KEY, what TEXT NOT NULL, checksum TEXT NOT NULL,
    expands INTEGER NOT NULL, applied_us INTEGER NOT NULL) STRICT;
"""
_TRANSACTIONAL: Final = re.compile(
    r"(BEGIN|START|COMMIT|END|ROLLBACK|ABORT|SAVEPOINT|RELEASE)\b", re.IGNORECASE
)


class Migration:
    """One change of a service's tables; `what` is a short description.

    `scripts` are its statements, in SQL for both databases (docs/events.md). If it only `expands`
    the tables, the previous version of the application works with them too.

    Raises:
        MigrationRefused: it has no statement, or one that begins or ends a transaction.
    """

    def __init__(self, what: str, *scripts: str, expands: bool = False) -> None:
        self.what = what
        self.statements = tuple(each for script in scripts for each in statements(script))
        self.expands = expands
        if not self.statements:
            raise MigrationRefused(f"the migration {what!r} does nothing", hint="give it SQL")
        for each in self.statements:
            if found := _TRANSACTIONAL.match(bare(each)):
                raise MigrationRefused(
                    f"the migration {what!r} says {found[0].upper()}",
                    hint="leave that out: each migration is a transaction",
                )


@dataclass(frozen=True, slots=True)
class Applied:
    """A migration that was applied to a database."""

    number: int
    what: str
    checksum: str
    expands: bool


class _Planned(NamedTuple):
    what: str
    statements: tuple[str, ...]
    expands: bool


def migrate(
    database: Database,
    schema: Sequence[str],
    migrations: Sequence[Migration],
    now_us: Callable[[], int],
) -> list[Applied]:
    """Apply a service's pending migrations; returns those that were applied.

    Without migrations, the statements of `schema` run each time, and nothing is recorded. With
    migrations, `schema` is the first of them, and runs once.

    Raises:
        MigrationRefused: the applied migrations differ from the declared ones, or one failed; those
            before it are kept.
        StoreUnavailable: the database can't be used at the moment; those that were done are kept.
    """
    database.create([SCHEMA])
    planned = _planned(schema, migrations)
    found = applied(database)
    if not found and not migrations:
        _create(database, schema)
        return []
    _check(found, planned)
    done: list[Applied] = []
    while len(found) < len(planned):
        if (next_one := _apply_next(database, planned, now_us)) is not None:
            done.append(next_one)
        found = applied(database)
    return done


def _create(database: Database, schema: Sequence[str]) -> None:
    try:
        database.create(schema)
    except StoreUnavailable:
        raise
    except Exception as error:
        raise MigrationRefused(
            f"the schema can't be applied: {error}", hint="correct the SQL of its `schema`"
        ) from error


def applied(database: Database) -> list[Applied]:
    """The recorded migrations of a database that has their table, in order."""
    rows = database.execute("SELECT number, what, checksum, expands FROM migrations ORDER BY 1")
    return [
        Applied(number, what, checksum, bool(expands)) for number, what, checksum, expands in rows
    ]


def _apply_next(
    database: Database, planned: list[_Planned], now_us: Callable[[], int]
) -> Applied | None:
    """Apply the first pending migration, unless another process has meanwhile."""
    with database.transaction():
        database.exclusive("migrations")
        found = applied(database)
        _check(found, planned)
        if (number := len(found)) >= len(planned):
            return None
        what, script, expands = planned[number]
        try:
            for statement in script:
                database.execute(statement)
        except StoreUnavailable:
            raise
        except Exception as error:
            raise MigrationRefused(
                f"migration {number} ({what}) failed, and nothing of it stands: {error}",
                hint="correct it: what was never applied may be changed",
            ) from error
        row = Applied(number, what, _checksum(script), expands)
        database.execute(
            "INSERT INTO migrations VALUES (?, ?, ?, ?, ?)",
            (number, what, row.checksum, int(expands), now_us()),
        )
        faults.point("migration.before-commit")
    return row


def _planned(schema: Sequence[str], migrations: Sequence[Migration]) -> list[_Planned]:
    first = tuple(each for script in schema for each in statements(script))
    later = [_Planned(each.what, each.statements, each.expands) for each in migrations]
    return [_Planned("the schema", first, expands=False), *later]


def _check(found: list[Applied], planned: list[_Planned]) -> None:
    for each in found:
        named = f"migration {each.number} ({each.what})"
        if each.number >= len(planned):
            if not each.expands:
                raise MigrationRefused(
                    f"the database is ahead of this application, which has no {named}",
                    hint="start the version that has it; only migrations that are declared with "
                    "expands=True let the version before them run",
                )
        elif each.checksum != _checksum(planned[each.number].statements):
            if each.number == 0:
                raise MigrationRefused(
                    "the schema was changed after migrations began from it",
                    hint="put it back as it was, and make the change a migration",
                )
            raise MigrationRefused(
                f"{named} was changed, moved or removed after it was applied",
                hint="put it back as it was, and make the change another migration, at the end",
            )


def _checksum(script: tuple[str, ...]) -> str:
    """A checksum of statements that ignores differences of whitespace."""
    said = "\0".join(" ".join(statement.split()) for statement in script)
    return hashlib.blake2b(said.encode(), digest_size=16).hexdigest()
