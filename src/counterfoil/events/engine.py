"""The two engines of events: everything in SQLite files, or Kafka with PostgreSQL."""

import fcntl
from collections.abc import Generator, Iterable
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Literal, Protocol

from counterfoil.events import outbox
from counterfoil.events.database import Database
from counterfoil.events.embedded import EmbeddedLog
from counterfoil.events.kafka import KafkaLog
from counterfoil.events.kafka_transactions import KafkaTransactions
from counterfoil.events.log import EventLog
from counterfoil.events.messages import Message
from counterfoil.events.outbox import OutboxReader, TableOutbox
from counterfoil.events.pipeline_store import PipelineStore
from counterfoil.events.postgres import PostgresDatabase
from counterfoil.events.replication import LogOutbox, ReturnedOutbox, Slot
from counterfoil.events.retention import Retention
from counterfoil.events.schemas import EmbeddedRegistry, OneAtATime, Registry
from counterfoil.events.sqlite import SqliteDatabase
from counterfoil.events.sqlite_transactions import SqliteTransactions
from counterfoil.events.topics import AnyTopic, no_topic
from counterfoil.events.transactions import Transactions
from counterfoil.kafka_access import KafkaAccess


class Events(Protocol):
    """Opens an application's databases and log; each caller gets its own connections."""

    def log(self) -> EventLog:
        """The event log."""
        ...

    def service(self, name: str) -> Database:
        """The database of a service."""
        ...

    def pipelines(self) -> PipelineStore:
        """The database of the pipelines."""
        ...

    def outbox(self, source: str) -> OutboxReader:
        """The outbox of one source."""
        ...

    def transactions(self) -> Transactions:
        """The transactions, for inspection."""
        ...

    @property
    def registry(self) -> Registry:
        """The registry of the topics' schemas."""
        ...


class EmbeddedEvents:
    """A SQLite file for each service, and one for log and pipelines, all in `folder`.

    Schemas are in the latter, unless a `registry` is given.
    """

    def __init__(self, folder: Path, *, registry: Registry | None = None) -> None:
        self._folder = folder
        self.registry: Registry = EmbeddedRegistry(self._shared)
        if registry is not None:
            self.registry = OneAtATime(registry, self._registering)

    def log(self) -> EmbeddedLog:
        """The event log."""
        return EmbeddedLog(self._shared(), self.registry)

    def service(self, name: str) -> Database:
        """The database of a service."""
        return SqliteDatabase(self._folder / f"service-{name}.db")

    def pipelines(self) -> PipelineStore:
        """The database of the pipelines: the log's, so that emitted events need no outbox."""
        database = self._shared()
        log = EmbeddedLog(database, self.registry)
        return PipelineStore(database, log.insert, log)

    def outbox(self, source: str) -> OutboxReader:
        """The outbox of a service."""
        return TableOutbox(self.service(source))

    def transactions(self) -> SqliteTransactions:
        """The holders of the files' write locks."""
        return SqliteTransactions(self._folder)

    def retention(self, topics: Iterable[AnyTopic]) -> Retention:
        """The retention of the log's old records."""
        self.pipelines().close()  # creates the table of positions, which retention reads
        return Retention(self._shared(), topics)

    @contextmanager
    def _registering(self) -> Generator[None, None, None]:
        """A lock on a separate file: with SQLite's, all writers would wait for the registry."""
        with (self._folder / "schemas.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _shared(self) -> Database:
        return SqliteDatabase(self._folder / "events.db")


class KafkaEvents:
    """The log on the cluster at `kafka`; services and pipelines in schemas of PostgreSQL.

    Events that pipelines emit go through an outbox in the database of their state: so they are part
    of one commit, where Kafka and PostgreSQL would be two. A bare `host:port` is for brokers
    without authentication. Outboxes are read from their tables or, with `outbox_from="log"`, from
    PostgreSQL's WAL. Schemas are in the database of the pipelines, unless a `registry` is given. If
    the declared `topics` are given, pipelines may send to those only, as on the embedded log: an
    event of an undeclared topic would block the outbox.
    """

    PIPELINES = "_pipelines"
    """The name of the pipelines' outbox as a source, beside the services'."""

    def __init__(
        self,
        kafka: KafkaAccess | str,
        postgres: str,
        password: str | None,
        application: str,
        *,
        outbox_from: Literal["table", "log"] = "table",
        registry: Registry | None = None,
        topics: Iterable[AnyTopic] | None = None,
    ) -> None:
        self._topics = None if topics is None else frozenset(topic.name for topic in topics)
        self._kafka = KafkaAccess(kafka) if isinstance(kafka, str) else kafka
        self._postgres = postgres
        self._password = password
        self._application = application
        self._outbox_from: Literal["table", "log"] = outbox_from
        self.registry: Registry = EmbeddedRegistry(lambda: self.service(self.PIPELINES))
        if registry is not None:
            self.registry = OneAtATime(registry, self._registering)

    def log(self) -> KafkaLog:
        """The event log."""
        return KafkaLog(self._kafka, self._application, self.registry)

    def service(self, name: str) -> Database:
        """The database of a service: the schema `APPLICATION.SERVICE`."""
        return PostgresDatabase(
            self._postgres,
            self._schema(name),
            password=self._password,
            outbox_from=self._outbox_from,
        )

    def pipelines(self) -> PipelineStore:
        """The database of the pipelines."""
        database = self.service(self.PIPELINES)
        database.create([outbox.SCHEMA])

        def send(messages: Iterable[Message]) -> None:
            sent = list(messages)
            for message in sent:
                if self._topics is not None and message.topic not in self._topics:
                    raise no_topic(message.topic)
            outbox.insert(database, sent)

        return PipelineStore(database, send)

    def outbox(self, source: str) -> OutboxReader:
        """The outbox of a source."""
        database = self.service(source)
        slot = Slot(self._postgres, self._password, self._schema(source))
        log = LogOutbox(database, slot, self._postgres, self._password)
        return log if self._outbox_from == "log" else ReturnedOutbox(database, slot, log)

    def transactions(self) -> KafkaTransactions:
        """The Kafka transactions of the application."""
        return KafkaTransactions(self._kafka, self._application)

    @contextmanager
    def _registering(self) -> Generator[None, None, None]:
        """A lock in PostgreSQL, which only registrations of schemas use."""
        with closing(self.service(self.PIPELINES)) as database, database.transaction():
            database.exclusive("schemas")
            yield

    def _schema(self, source: str) -> str:
        return f"{self._application}.{source}"
