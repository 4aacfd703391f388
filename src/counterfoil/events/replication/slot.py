"""A source's replication slot: created on the first read from the WAL, dropped after the last.

A slot retains the server's WAL until it was read, also across restarts and while nothing reads it.
`max_slot_wal_keep_size` limits that; beyond it the slot is permanently lost.
"""

import hashlib
import re
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from counterfoil.events.errors import EventsError, StoreUnavailable

if TYPE_CHECKING:
    import psycopg

PREFIX: Final = "counterfoil_"
CONNECT_SECONDS: Final = 3
FREE_SECONDS: Final = 5.0
"""How long a terminated connection may take to release the slot."""
_LONGEST: Final = 63
"""Maximum bytes of a name in PostgreSQL."""


class Slot:
    """The slot, and the publication of the same name, of the outbox in `schema` at `uri`.

    Every method raises `StoreUnavailable` if the server can't be reached, and `EventsError` if it
    refuses.
    """

    def __init__(self, uri: str, password: str | None, schema: str) -> None:
        self._uri = uri
        self._password = password
        self._schema = schema

    def exists(self) -> bool:
        """Whether the slot exists, even if lost."""
        with self._connected() as connection:
            return _status(connection, self._name(connection)) is not None

    def readable(self) -> str:
        """The name of the slot, if it still has everything after its confirmed position.

        Raises:
            EventsError: it is gone, or the server has removed unread WAL.
        """
        with self._connected() as connection:
            name = self._name(connection)
            match _status(connection, name):
                case None:
                    what = "is gone: somebody has dropped it, or the server is another one"
                case "lost":
                    what = "is lost: more than max_slot_wal_keep_size was written and not read"
                case _:
                    return name
            raise EventsError(
                f"PostgreSQL: slot {name} {what}",
                hint='docs/events.md, "A slot that was lost", says how to go on',
            )

    def make(self) -> None:
        """Create publication and slot if they don't exist.

        Waits for all transactions in progress.
        """
        from psycopg import errors, sql  # noqa: PLC0415 - an extra

        if self.exists():
            return
        with self._connected() as connection:
            name = self._name(connection)
            # The publication first: the plugin looks it up as of the time of each change.
            for statement, parameters in (
                (
                    sql.SQL("CREATE PUBLICATION {} FOR TABLE {} WITH (publish = 'insert')").format(
                        sql.Identifier(name), sql.Identifier(self._schema, "outbox")
                    ),
                    (),
                ),
                (sql.SQL("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')"), (name,)),
            ):
                try:
                    connection.execute(statement, parameters)
                except errors.DuplicateObject:  # created by another process, or before a crash
                    continue

    def free(self) -> None:
        """Terminate the connection that reads the slot, such as a paused reader's."""
        with self._connected() as connection:
            deadline = time.monotonic() + FREE_SECONDS
            while connection.execute(
                "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots "
                "WHERE slot_name = %s AND active_pid IS NOT NULL",
                (self._name(connection),),
            ).fetchone():
                if time.monotonic() > deadline:
                    raise StoreUnavailable(f"slot {self._name(connection)} is not let go of")
                time.sleep(0.05)

    def drop(self) -> None:
        """Drop slot and publication, so that they no longer retain WAL."""
        from psycopg import sql  # noqa: PLC0415 - an extra

        self.free()
        with self._connected() as connection:
            name = self._name(connection)
            connection.execute(
                "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots "
                "WHERE slot_name = %s",
                (name,),
            )
            dropping = sql.SQL("DROP PUBLICATION IF EXISTS {}").format(sql.Identifier(name))
            connection.execute(dropping)

    def _name(self, connection: "psycopg.Connection[Any]") -> str:
        """A readable name that is unique in the server: its databases share the names of slots."""
        database = connection.info.dbname
        digest = hashlib.blake2s(f"{database}.{self._schema}".encode(), digest_size=5).hexdigest()
        readable = re.sub(r"[^a-z0-9]+", "_", self._schema.lower())
        return f"{PREFIX}{readable[: _LONGEST - len(PREFIX) - len(digest) - 1]}_{digest}"

    @contextmanager
    def _connected(self) -> "Generator[psycopg.Connection[Any], None, None]":
        import psycopg  # noqa: PLC0415 - an extra

        try:
            with psycopg.connect(
                self._uri,
                password=self._password,
                autocommit=True,
                connect_timeout=CONNECT_SECONDS,
            ) as connection:
                yield connection
        except psycopg.errors.ObjectNotInPrerequisiteState as error:
            raise EventsError(
                f"PostgreSQL: {str(error).strip()}",
                hint="ALTER SYSTEM SET wal_level = logical, and restart the server",
            ) from error
        except psycopg.errors.InsufficientPrivilege as error:
            raise EventsError(
                f"PostgreSQL: {str(error).strip()}",
                hint="ALTER ROLE ... REPLICATION: reading the log needs it",
            ) from error
        except psycopg.errors.ConfigurationLimitExceeded as error:
            raise EventsError(
                f"PostgreSQL: {str(error).strip()}",
                hint="raise max_replication_slots and max_wal_senders: one for each source",
            ) from error
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            raise StoreUnavailable(f"PostgreSQL: {str(error).strip()}") from error


def _status(connection: "psycopg.Connection[Any]", name: str) -> str | None:
    """`reserved`, `extended`, `unreserved` or `lost`; None if there is no such slot."""
    found = connection.execute(
        "SELECT coalesce(wal_status, 'lost') FROM pg_replication_slots WHERE slot_name = %s",
        (name,),
    ).fetchone()
    return None if found is None else found[0]
