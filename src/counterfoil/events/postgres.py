"""PostgreSQL as the database of services and pipelines, beside Kafka.

Transactions are READ COMMITTED: decisions that must happen once begin by writing a row (a claim
with ON CONFLICT, a guarded update of an offset), on which a concurrent transaction waits.
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
"""TCP keepalives, on both sides: after a minute of silence the other machine counts as dead.
Without them, a server would keep the locks of a client whose machine lost power for two hours, and
all other processes of a pipeline would wait for them. For a process that is only slow or stopped,
its machine's kernel answers, and it keeps its locks."""
_KEEPALIVES: Final = (
    f"-c tcp_keepalives_idle={IDLE_SECONDS} -c tcp_keepalives_interval={PROBE_SECONDS} "
    f"-c tcp_keepalives_count={PROBES}"
)
OLDEST: Final = 150_000
_LOST: Final = "PostgreSQL: the connection was lost within a transaction, and that with it"
_HINT: Final = "set PGPASSWORD, or write the password into ~/.pgpass"


_BEYOND_LIMITS: Final = "54"
"""The class of errors "program limit exceeded": an OperationalError in psycopg, but permanent."""


class PostgresDatabase:
    """The tables in `schema` of the database at `uri`; libpq finds the password if none is given.

    With `outbox_from="log"`, writers to its outbox are not serialised.
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
            # Not `exclusive`: its lock names belong to the schema, which is created here.
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
        """Run a statement once for each row of parameters, pipelined to the server."""
        with self._available() as connection, connection.cursor() as cursor:
            cursor.executemany(_sql(sql), rows)
            return max(cursor.rowcount, 0)

    @contextmanager
    def transaction(self) -> Generator[None, None, None]:
        """A transaction, or a savepoint inside one."""
        with self._available() as connection, connection.transaction():
            self._depth += 1
            try:
                yield
                _committable(connection)
            finally:
                self._depth -= 1

    @contextmanager
    def reading(self) -> Generator[None, None, None]:
        """A snapshot, from the first statement on; doesn't block writers."""
        with self.transaction():
            self.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            yield

    def exclusive(self, name: str) -> None:
        """Take an advisory lock until the end of the transaction.

        The server releases it after the commit is durable and visible to others.
        """
        self.execute("SELECT pg_advisory_xact_lock(hashtext(?))", (f"{self._schema} {name}",))

    def shared(self, name: str) -> None:
        """Take the lock of `exclusive` in shared mode."""
        name = f"{self._schema} {name}"
        self.execute("SELECT pg_advisory_xact_lock_shared(hashtext(?))", (name,))

    def enter_outbox(self) -> None:
        """Lock the outbox against other writers or, if it is read from the log, in shared mode.

        Shared mode waits only for a reader that is changing modes: with the `exclusive` lock, it
        finds no transaction that is writing to the outbox.
        """
        if self._outbox_from == "table":
            self.exclusive("outbox")
        else:
            self.shared("outbox")

    def lock_rows(self, sql: str, parameters: Sequence[object] = ()) -> "psycopg.Cursor[Any]":
        """Run a SELECT and lock its rows; rows that are locked by others are skipped."""
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
                # On a new connection, the transaction's statements would autocommit.
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
                raise  # caused by the data, such as a key that is too long for an index
            missed = error.pgconn is not None and error.pgconn.needs_password
            hint = _HINT if missed else ""
            raise StoreUnavailable(f"PostgreSQL: {str(error).strip()}", hint=hint) from error


def _committable(connection: "psycopg.Connection[Any]") -> None:
    """Raise if a transaction can't be committed, although its block ended without an error.

    The block may have caught the error. psycopg silently commits nothing on a lost connection, and
    PostgreSQL answers the COMMIT of a failed transaction with ROLLBACK: neither raises.
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

    # The SQL is a service's or our own; values are parameters.
    return cast("LiteralString", to_postgres(sql))
