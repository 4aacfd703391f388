"""Opens an application's stores read-only, without the code that wrote them.

A bug in the code that writes must not be able to hide in the code that checks. So this uses the
plain clients of SQLite, PostgreSQL and Kafka, and the tables' names.
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
    """A store's engine does not answer; it may later."""


class Stores(Protocol):
    """The tables and topics of one application."""

    state: StateFolder
    idempotency_key: str
    """SQL for the Idempotency-Key of an outbox row."""
    saga_tables: str
    """A query that returns a row if the sagas' tables exist; the first coordinator creates them."""
    holds_log: bool
    """Whether the log and all its positions are in the pipelines' database."""
    commits_in_order: bool
    """Whether outbox rows are numbered in commit order.

    They aren't in PostgreSQL if the outbox is read from its WAL, where writers don't serialize."""

    def service(self, name: str, sql: str, *parameters: object) -> Rows:
        """The rows of a query (`?` for parameters) on a service's tables; none before it ran."""
        ...

    def pipelines(self, sql: str, *parameters: object) -> Rows:
        """As `service`, on the tables of the pipelines."""
        ...

    def events(self, topic: str) -> Iterator[tuple[int, bytes]]:
        """(event id, value) of every record of a topic that is visible to consumers.

        Records of a partition are in the order of their offsets.
        """
        ...

    def published(self, services: Iterable[str]) -> Rows:
        """(topic, event id) of each event in the outboxes of services and pipelines."""
        ...

    def beyond(self, topic: str, positions: Mapping[int, int]) -> int:
        """The number of records that a consumer at `positions` has yet to read.

        A partition without a position is counted from its beginning.
        """
        ...

    def described(self, service: str) -> str:
        """Where a service's rows are, in words."""
        ...


def open_stores(name: str, configuration: Configuration, state: StateFolder) -> Stores:
    """The stores of the application `name`, which must be running unless its engines are embedded.

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
        """The records of a topic: each row is a MessagePack array of records."""
        rows = self.pipelines(
            "SELECT records FROM record_batches WHERE topic = ? ORDER BY partition, last", topic
        )
        for (batch,) in rows:
            for event_id, _, value, *_ in msgspec.msgpack.decode(batch):
                yield event_id, value

    def published(self, services: Iterable[str]) -> Rows:
        """The services' outboxes; pipelines write to the log directly."""
        return [row for service in services for row in self.service(service, _OUTBOX)]

    def beyond(self, topic: str, positions: Mapping[int, int]) -> int:
        """The ends, from the last batches, minus the positions."""
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
    """PostgreSQL schemas and Kafka topics."""

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
        """The committed records of a topic, from its beginning to its current end."""
        for message in self._messages(topic, {}):
            identity = dict(message.headers() or []).get("counterfoil-event-id") or b""
            # Records of other producers have no id; they are reported as having appeared.
            yield int(identity) if identity.isdigit() else 0, message.value() or b""

    def published(self, services: Iterable[str]) -> Rows:
        """The outboxes of services and pipelines, relayed or not."""
        sources = [*services, _PIPELINES]
        return [row for source in sources for row in self.service(source, _OUTBOX)]

    def beyond(self, topic: str, positions: Mapping[int, int]) -> int:
        """Counts committed records after the positions: offsets would count transaction markers."""
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
            # The end of a partition is reported by an empty fetch, which waits this long.
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
