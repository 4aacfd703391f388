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
    """Opens what the processes of an application need; each caller gets connections of its own."""

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
        """What one source has to send."""
        ...

    def transactions(self) -> Transactions:
        """What can be seen of transactions."""
        ...

    @property
    def registry(self) -> Registry:
        """Where schemas of topics are kept."""
        ...


class EmbeddedEvents:
    """A SQLite file for each service, and one for log and pipelines, all in `folder`.

    Schemas are in the latter, unless there is a `registry` for them.
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
        """The database of the pipelines: the log's, so that what they send is in it at once."""
        database = self._shared()
        log = EmbeddedLog(database, self.registry)
        return PipelineStore(database, log.insert, log)

    def outbox(self, source: str) -> OutboxReader:
        """What a service has to send."""
        return TableOutbox(self.service(source))

    def transactions(self) -> SqliteTransactions:
        """Who holds the write lock of which file."""
        return SqliteTransactions(self._folder)

    def retention(self, topics: Iterable[AnyTopic]) -> Retention:
        """What forgets old records of the log."""
        self.pipelines().close()  # the positions that it asks for have a table
        return Retention(self._shared(), topics)

    @contextmanager
    def _registering(self) -> Generator[None, None, None]:
        """A lock on a file of its own: in SQLite's, all who write would wait for the registry."""
        with (self._folder / "schemas.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _shared(self) -> Database:
        return SqliteDatabase(self._folder / "events.db")


class KafkaEvents:
    """The log on the cluster at `kafka`; services and pipelines in schemas of PostgreSQL.

    What pipelines send goes through an outbox of theirs, in the database of their state: that is
    one commit, where Kafka and PostgreSQL would be two. A bare `host:port` is that of brokers that
    ask nobody who it is. Outboxes are read from their tables, or with `outbox_from="log"` from
    PostgreSQL's log. Schemas are in the database of the pipelines too, unless there is a `registry`
    for them. Where the declared `topics` are given, pipelines send to those alone, as on the
    embedded log: an event of another one would stand in the outbox for good, and all after it.
    """

    PIPELINES = "_pipelines"
    """The source of what pipelines send, beside the services."""

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
        """What a source has to send."""
        database = self.service(source)
        slot = Slot(self._postgres, self._password, self._schema(source))
        log = LogOutbox(database, slot, self._postgres, self._password)
        return log if self._outbox_from == "log" else ReturnedOutbox(database, slot, log)

    def transactions(self) -> KafkaTransactions:
        """The transactions of the sources, as their coordinators know them."""
        return KafkaTransactions(self._kafka, self._application)

    @contextmanager
    def _registering(self) -> Generator[None, None, None]:
        """A lock in PostgreSQL, for which nobody waits but who registers a schema as well."""
        with closing(self.service(self.PIPELINES)) as database, database.transaction():
            database.exclusive("schemas")
            yield

    def _schema(self, source: str) -> str:
        return f"{self._application}.{source}"
