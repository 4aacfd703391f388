"""PostgreSQL as the database of services and pipelines, beside Kafka.

Transactions are READ COMMITTED: what must not be decided twice is decided by a row that is written
first (a claim with ON CONFLICT, an offset with a guard), on which a twin waits.
"""

from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Literal, LiteralString, cast

from counterfoil.events import scripts
from counterfoil.events.errors import Contended, EventsError, StoreUnavailable

if TYPE_CHECKING:
    import psycopg

CONNECT_SECONDS: Final = 3
IDLE_SECONDS: Final = 30
PROBE_SECONDS: Final = 10
PROBES: Final = 3
"""After a minute of silence the other side's machine is taken for dead, by either side. Without
that a server keeps for two hours the locks of a commit whose machine has lost its power, and all
other processes of a pipeline wait for them. Who is only slow or stopped is answered for by its
machine, and keeps its locks."""
_KEEPALIVES: Final = (
    f"-c tcp_keepalives_idle={IDLE_SECONDS} -c tcp_keepalives_interval={PROBE_SECONDS} "
    f"-c tcp_keepalives_count={PROBES}"
)
OLDEST: Final = 150_000
_LOST: Final = "PostgreSQL: the connection was lost within a transaction, and that with it"
_HINT: Final = "set PGPASSWORD, or write the password into ~/.pgpass"


_BEYOND_LIMITS: Final = "54"
"""The class of errors that psycopg takes for the server's, and that will be the same next time."""


class PostgresDatabase:
    """The tables below `schema` of the database at `uri`; a password in `password` or by libpq.

    With `outbox_from="log"` writers needn't enter its outbox one after the other.
    """

    def __init__(
        self,
        uri: str,
        schema: str,
        *,
        password: str | None = None,
        outbox_from: Literal["table", "log"] = "table",
    ) -> None:
        self._uri = uri
        self._schema = schema
        self._password = password
        self._outbox_from = outbox_from
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = None
        self._depth = 0
        """How many transactions and savepoints are open."""

    def create(self, statements: Iterable[str]) -> None:
        """Run the statements of a schema, one process at a time."""
        import psycopg  # noqa: PLC0415
        from psycopg import sql  # noqa: PLC0415

        with self.transaction():
            # Not `exclusive`: that name is below the schema, which is made here.
            self.execute("SELECT pg_advisory_xact_lock(hashtext(?))", (f"create {self._schema}",))
            self._opened().execute(
                sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(self._schema))
            )
            for script in statements:
                for statement in scripts.statements(script):
                    try:
                        self.execute(statement)
                    except psycopg.Error as error:
                        raise EventsError(f"schema {self._schema}: {error}") from error

    def execute(self, sql: str, parameters: Sequence[object] = ()) -> "psycopg.Cursor[Any]":
        """Run a statement."""
        with self._available() as connection:
            return connection.execute(_sql(sql), parameters)

    def executemany(self, sql: str, rows: Iterable[Sequence[object]]) -> int:
        """Run a statement once for each row of parameters, in one exchange with the server."""
        with self._available() as connection, connection.cursor() as cursor:
            cursor.executemany(_sql(sql), rows)
            return max(cursor.rowcount, 0)

    @contextmanager
    def transaction(self) -> Generator[None, None, None]:
        """A transaction, or a savepoint inside of one."""
        with self._available() as connection, connection.transaction():
            self._depth += 1
            try:
                yield
                _committable(connection)
            finally:
                self._depth -= 1

    @contextmanager
    def reading(self) -> Generator[None, None, None]:
        """One moment of the server, from the first statement on; who writes is not held up."""
        with self.transaction():
            self.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            yield

    def exclusive(self, name: str) -> None:
        """Take an advisory lock that the end of the transaction gives back.

        The server releases it after the commit is durable and seen by others.
        """
        self.execute("SELECT pg_advisory_xact_lock(hashtext(?))", (f"{self._schema} {name}",))

    def shared(self, name: str) -> None:
        """Take the lock of `exclusive` together with others who take it so."""
        name = f"{self._schema} {name}"
        self.execute("SELECT pg_advisory_xact_lock_shared(hashtext(?))", (name,))

    def enter_outbox(self) -> None:
        """Wait for the commits of others, or only for a reader that is about to go over.

        The lock is `exclusive`'s, so whoever takes that one finds no writer in the outbox.
        """
        if self._outbox_from == "table":
            self.exclusive("outbox")
        else:
            self.shared("outbox")

    def lock_rows(self, sql: str, parameters: Sequence[object] = ()) -> "psycopg.Cursor[Any]":
        """Run a SELECT and lock its rows; those that are locked are skipped."""
        with self._available() as connection:
            return connection.execute(_sql(sql) + " FOR UPDATE SKIP LOCKED", parameters)

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _opened(self) -> "psycopg.Connection[tuple[Any, ...]]":
        import psycopg  # noqa: PLC0415 - an extra

        if self._connection is None or self._connection.closed:
            if self._depth:
                # A new connection would commit by itself what belongs to the transaction.
                raise StoreUnavailable(_LOST)
            self._connection = psycopg.connect(
                self._uri,
                password=self._password,
                autocommit=True,
                connect_timeout=CONNECT_SECONDS,
                keepalives_idle=IDLE_SECONDS,
                keepalives_interval=PROBE_SECONDS,
                keepalives_count=PROBES,
                options=f'-c search_path="{self._schema}" -c synchronous_commit=on {_KEEPALIVES}',
                application_name=f"counterfoil {self._schema}",
            )
            if self._connection.info.server_version < OLDEST:
                found = self._connection.info.parameter_status("server_version")
                self.close()
                raise EventsError(
                    f"PostgreSQL {found} is too old", hint=f"use {OLDEST // 10_000} or later"
                )
        return self._connection

    @contextmanager
    def _available(self) -> Generator["psycopg.Connection[tuple[Any, ...]]", None, None]:
        import psycopg  # noqa: PLC0415 - an extra

        try:
            yield self._opened()
        except psycopg.errors.DeadlockDetected as error:
            raise Contended(f"PostgreSQL: {str(error).strip()}") from error
        except (
            psycopg.OperationalError,
            psycopg.InterfaceError,
            psycopg.errors.ReadOnlySqlTransaction,
        ) as error:
            if (error.sqlstate or "").startswith(_BEYOND_LIMITS):
                raise  # of what was to be stored, such as a key that is too long for an index
            missed = error.pgconn is not None and error.pgconn.needs_password
            hint = _HINT if missed else ""
            raise StoreUnavailable(f"PostgreSQL: {str(error).strip()}", hint=hint) from error


def _committable(connection: "psycopg.Connection[Any]") -> None:
    """Raise for a transaction that can't be committed, though its block has come to its end.

    The block may have caught the error that says so. psycopg commits nothing on a connection that
    is lost, and PostgreSQL answers the COMMIT of a failed transaction with a ROLLBACK: neither is
    an error to them.
    """
    import psycopg  # noqa: PLC0415 - an extra

    if connection.closed:
        raise StoreUnavailable(_LOST)
    if connection.info.transaction_status == psycopg.pq.TransactionStatus.INERROR:
        raise psycopg.errors.InFailedSqlTransaction(
            "a statement failed and its error was passed over: nothing of the transaction stands"
        )


def _sql(sql: str) -> LiteralString:
    from counterfoil.events.dialect import to_postgres  # noqa: PLC0415 - heavy

    # The text is a service's or our own; values are parameters.
    return cast("LiteralString", to_postgres(sql))
