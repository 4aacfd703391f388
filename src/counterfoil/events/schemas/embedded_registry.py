"""The registry that needs no server: two tables beside the state of the pipelines.

They belong to one application, so a subject is `TOPIC-value`, without the application's name.
"""

import hashlib
from collections.abc import Callable
from contextlib import closing
from typing import Final, TypeVar

from counterfoil.events.database import Database
from counterfoil.events.errors import RegistryUnavailable, StoreUnavailable
from counterfoil.events.schemas.schema import Schema

T = TypeVar("T")
SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS schemas (
    id INTEGER PRIMARY KEY AUTOINCREMENT, fingerprint TEXT NOT NULL UNIQUE, type TEXT NOT NULL,
    content TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS schema_versions (
    subject TEXT NOT NULL, version INTEGER NOT NULL, schema INTEGER NOT NULL,
    PRIMARY KEY (subject, version)) STRICT, WITHOUT ROWID;
"""


class EmbeddedRegistry:
    """The registry in the database that `connect` opens."""

    def __init__(self, connect: Callable[[], Database]) -> None:
        self._connect = connect

    def find(self, topic: str, schema: Schema) -> int | None:
        """The id of a schema that is a version of a topic's subject, or None."""
        return self._ask(lambda database: _find(database, _subject(topic), schema))

    def latest(self, topic: str) -> Schema | None:
        """The newest version of a topic's subject, or None if it has none."""

        return self._ask(lambda database: _latest(database, _subject(topic)))

    def register(self, topic: str, schema: Schema, *, after: Schema | None) -> int | None:
        """Register a schema as the newest version of a topic's subject, unless it is one already.

        None if the newest is no longer `after`: comparing and writing are one transaction.
        """

        def ask(database: Database) -> int | None:
            subject, fingerprint = _subject(topic), _fingerprint(schema)
            with database.transaction():
                database.exclusive("schemas")
                known = _find(database, subject, schema)
                if known is not None:
                    return known
                if _latest(database, subject) != after:
                    return None
                database.execute(
                    "INSERT INTO schemas (fingerprint, type, content) VALUES (?, ?, ?) "
                    "ON CONFLICT (fingerprint) DO NOTHING",
                    (fingerprint, schema.type, schema.text),
                )
                (schema_id,) = database.execute(
                    "SELECT id FROM schemas WHERE fingerprint = ?", (fingerprint,)
                ).fetchone()
                database.execute(
                    "INSERT INTO schema_versions SELECT ?, coalesce(max(version), 0) + 1, ? "
                    "FROM schema_versions WHERE subject = ?",
                    (subject, schema_id, subject),
                )
            return schema_id

        return self._ask(ask)

    def schema(self, schema_id: int) -> Schema | None:
        """The schema with an id, or None if there is none."""

        def ask(database: Database) -> Schema | None:
            row = database.execute(
                "SELECT type, content FROM schemas WHERE id = ?", (schema_id,)
            ).fetchone()
            return None if row is None else Schema(*row)

        return self._ask(ask)

    def is_empty(self) -> bool:
        """Whether no schema was ever registered."""
        return self._ask(
            lambda database: database.execute("SELECT 1 FROM schemas LIMIT 1").fetchone() is None
        )

    def _ask(self, ask: Callable[[Database], T]) -> T:
        try:
            with closing(self._connect()) as database:
                database.create([SCHEMA])
                return ask(database)
        except StoreUnavailable as error:
            raise RegistryUnavailable(f"the tables of schemas: {error}") from error


def _find(database: Database, subject: str, schema: Schema) -> int | None:
    row = database.execute(
        "SELECT s.id FROM schema_versions AS v JOIN schemas AS s ON s.id = v.schema "
        "WHERE v.subject = ? AND s.fingerprint = ?",
        (subject, _fingerprint(schema)),
    ).fetchone()
    return None if row is None else row[0]


def _latest(database: Database, subject: str) -> Schema | None:
    row = database.execute(
        "SELECT s.type, s.content FROM schema_versions AS v JOIN schemas AS s ON s.id = v.schema "
        "WHERE v.subject = ? ORDER BY v.version DESC LIMIT 1",
        (subject,),
    ).fetchone()
    return None if row is None else Schema(*row)


def _subject(topic: str) -> str:
    return f"{topic}-value"


def _fingerprint(schema: Schema) -> str:
    return hashlib.sha256(f"{schema.type} {schema.text}".encode()).hexdigest()
