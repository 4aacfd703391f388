"""Opens an application's stores read-only, without the code that wrote them.

A bug in the code that writes must not be able to hide in the code that checks. So this speaks with
SQLite, PostgreSQL and Kafka by their plain clients, and knows the tables by name.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, LiteralString, Protocol, cast

import msgspec

from counterfoil.application import Configuration, StateFolder
from counterfoil.errors import CounterfoilError
from counterfoil.kafka_access import KafkaAccess
from counterfoil.supervisor import kafka_access, last_addresses, secret

if TYPE_CHECKING:
    from confluent_kafka import Message

ANSWER_SECONDS: Final = 10.0
_PIPELINES: Final = "_pipelines"
_OUTBOX: Final = "SELECT topic, event_id FROM outbox"
Rows = list[tuple[Any, ...]]


class StoreAway(CounterfoilError):
    """The engine that holds a store does not answer; it may later."""


class Stores(Protocol):
    """The tables and topics of one application."""

    state: StateFolder
    idempotency_key: str
    """SQL that finds an outbox row's Idempotency-Key."""
    saga_tables: str
    """A query with a row if there are tables of sagas, which the first coordinator makes."""
    holds_log: bool
    """Whether the log and all positions in it are in the database of the pipelines."""
    commits_in_order: bool
    """Whether the rows of an outbox are numbered in the order of their commits.

    PostgreSQL doesn't, where the outbox is read from its log and writers needn't wait in line."""

    def service(self, name: str, sql: str, *parameters: object) -> Rows:
        """The rows of a query (`?` for parameters) over a service's tables; none before it ran."""
        ...

    def pipelines(self, sql: str, *parameters: object) -> Rows:
        """The same over the tables of the pipelines."""
        ...

    def events(self, topic: str) -> Iterator[tuple[int, bytes]]:
        """(event id, value) of every record of a topic that consumers can see.

        Those of a partition are in the order of their offsets.
        """
        ...

    def published(self, services: Iterable[str]) -> Rows:
        """(topic, event id) of each event that services, or pipelines, have left for the log."""
        ...

    def beyond(self, topic: str, positions: Mapping[int, int]) -> int:
        """How many records a consumer that stands at `positions` has still to be given.

        A partition without a position is counted from its beginning.
        """
        ...

    def described(self, service: str) -> str:
        """Where a service keeps its rows, for people."""
        ...


def open_stores(name: str, configuration: Configuration, state: StateFolder) -> Stores:
    """The stores of the application `name`, which runs unless its engines are embedded.

    Raises:
        CounterfoilError: its engines were never started.
    """
    if configuration.engines.events == "embedded":
        return EmbeddedStores(state)
    addresses = last_addresses(state)
    password = secret("postgres", configuration, state)
    kafka = kafka_access(configuration, addresses)
    return RealStores(
        state,
        name,
        kafka,
        addresses.engines["postgres"],
        password,
        commits_in_order=configuration.events.outbox == "table",
    )


class EmbeddedStores:
    """SQLite files in the state folder."""

    idempotency_key = "json_extract(headers, '$.\"idempotency-key\"')"
    saga_tables = "SELECT 1 FROM sqlite_master WHERE name = 'saga_instances'"
    holds_log = True
    commits_in_order = True

    def __init__(self, state: StateFolder) -> None:
        self.state = state

    def service(self, name: str, sql: str, *parameters: object) -> Rows:
        """Query a service's file."""
        return _query(self.state.service(name), sql, parameters)

    def pipelines(self, sql: str, *parameters: object) -> Rows:
        """Query the log's file, which holds the pipelines' tables as well."""
        return _query(self.state.log, sql, parameters)

    def events(self, topic: str) -> Iterator[tuple[int, bytes]]:
        """The records of a topic: rows of MessagePack, an array for each record."""
        rows = self.pipelines(
            "SELECT records FROM record_batches WHERE topic = ? ORDER BY partition, last", topic
        )
        for (batch,) in rows:
            for event_id, _, value, *_ in msgspec.msgpack.decode(batch):
                yield event_id, value

    def published(self, services: Iterable[str]) -> Rows:
        """What is in the services' outboxes; pipelines write into the log themselves."""
        return [row for service in services for row in self.service(service, _OUTBOX)]

    def beyond(self, topic: str, positions: Mapping[int, int]) -> int:
        """Ends, which the last batches tell, less positions."""
        ends = self.pipelines(
            "SELECT partition, max(last) + 1 FROM record_batches WHERE topic = ? GROUP BY 1", topic
        )
        return sum(max(end - positions.get(partition, 0), 0) for partition, end in ends)

    def described(self, service: str) -> str:
        """The name of the file."""
        return self.state.service(service).name


def _query(path: Path, sql: str, parameters: Sequence[object]) -> Rows:
    if not path.exists():
        return []
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return connection.execute(sql, parameters).fetchall()


class RealStores:
    """Schemas of PostgreSQL and topics of Kafka."""

    idempotency_key = "(headers::json)->>'idempotency-key'"
    saga_tables = "SELECT 1 WHERE to_regclass('saga_instances') IS NOT NULL"
    holds_log = False

    def __init__(
        self,
        state: StateFolder,
        application: str,
        kafka: KafkaAccess,
        postgres: str,
        password: str | None,
        *,
        commits_in_order: bool = False,
    ) -> None:
        self.state = state
        self.commits_in_order = commits_in_order
        self._application = application
        self._kafka = kafka
        self._postgres = postgres
        self._password = password

    def service(self, name: str, sql: str, *parameters: object) -> Rows:
        """Query a service's schema."""
        import psycopg  # noqa: PLC0415 - an extra

        options = f'-c search_path="{self._application}.{name}"'
        try:
            with psycopg.connect(
                self._postgres, password=self._password, options=options, connect_timeout=3
            ) as connection:
                text = cast("LiteralString", sql.replace("?", "%s"))
                return connection.execute(text, parameters or None).fetchall()
        except psycopg.errors.UndefinedTable:
            return []
        except psycopg.OperationalError as error:
            raise StoreAway(f"PostgreSQL did not answer: {error}") from error

    def pipelines(self, sql: str, *parameters: object) -> Rows:
        """Query the schema of the pipelines."""
        return self.service(_PIPELINES, sql, *parameters)

    def events(self, topic: str) -> Iterator[tuple[int, bytes]]:
        """The committed records of a topic, from its beginning to its end as of now."""
        for message in self._messages(topic, {}):
            identity = dict(message.headers() or []).get("counterfoil-event-id") or b""
            # Others may write there too; what they wrote has no id, and has appeared.
            yield int(identity) if identity.isdigit() else 0, message.value() or b""

    def published(self, services: Iterable[str]) -> Rows:
        """What is in the outboxes of services and pipelines, sent or not."""
        sources = [*services, _PIPELINES]
        return [row for source in sources for row in self.service(source, _OUTBOX)]

    def beyond(self, topic: str, positions: Mapping[int, int]) -> int:
        """Committed records from the positions on: ends count markers of transactions as well."""
        return sum(1 for _ in self._messages(topic, positions))

    def _messages(self, topic: str, positions: Mapping[int, int]) -> "Iterator[Message]":
        from confluent_kafka import (  # noqa: PLC0415
            Consumer,
            KafkaError,
            KafkaException,
            TopicPartition,
        )

        name = f"{self._application}.{topic}"
        settings = {
            **self._kafka.librdkafka(),
            "group.id": "counterfoil.proof",
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
            # The end is told by a fetch that has found nothing, for which the broker waits so long.
            "fetch.wait.max.ms": 10,
        }
        with closing(Consumer(settings)) as consumer:
            try:
                found = consumer.list_topics(name, timeout=ANSWER_SECONDS).topics[name]
            except KafkaException as error:
                raise StoreAway(f"Kafka did not answer: {error.args[0].str()}") from error
            waiting = set(found.partitions)
            places = [TopicPartition(name, each, positions.get(each, 0)) for each in waiting]
            consumer.assign(places)
            while waiting:
                message = consumer.poll(ANSWER_SECONDS)
                if message is None:
                    raise StoreAway(f"Kafka at {self._kafka.servers} did not answer")
                error = message.error()
                if error is None:
                    yield message
                elif error.code() == KafkaError._PARTITION_EOF:
                    waiting.discard(message.partition())
                else:
                    raise StoreAway(f"Kafka: {error.str()}")

    def described(self, service: str) -> str:
        """The name of the schema."""
        return f"PostgreSQL, {self._application}.{service}"
