"""Runs random transactions on a real Kafka with concurrent clients, and records a history.

It uses only the plain client (confluent-kafka), as documented: a read-committed consumer, and a
transactional producer that is discarded after an error with unknown outcome. The next producer with
the same transactional id resolves its open transaction (KIP-890). After a transaction that did not
take effect, a client goes back to the end of the last one that did, as a pipeline does.
"""

import random
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from types import MappingProxyType
from typing import Any, Final, Literal, cast

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from counterfoil.errors import CounterfoilError
from counterfoil.kafka_access import KafkaAccess
from counterfoil.proof.anomalies.history import History, Place, Poll, Send, Transaction

SEEDED: Final[Mapping[str, str]] = MappingProxyType(
    {
        "read-uncommitted": "consumers read what is not committed (G1a)",
        "send-twice": "a client sends again what was committed (duplicate)",
        "skip-polls": "a client moves on without what it was given (poll-skip)",
        "skip-placed": "a client takes up a partition behind where it had come to (poll-skip)",
        "rewind": "a client reads again without having gone back (nonmonotonic-poll)",
        "claim-commit": "a client takes an aborted transaction for a committed one (lost-write)",
    }
)
"""Bugs of a client that can be enabled, to check that the checker finds them."""
PARTITIONS: Final = 3
ACTIONS: Final = 4
"""Per transaction, at most."""
ABORTED: Final = 0.15
"""The share of transactions that are aborted on purpose."""
BUGGY: Final = 0.5
"""The probability with which an enabled bug occurs."""
POLLED: Final = 20
"""Per poll, at most."""
POLL_SECONDS: Final = 0.05
PATIENCE: Final = 10
"""Attempts of an enabled bug to poll something."""
CALL_SECONDS: Final = 10.0
SETTLE_SECONDS: Final = 60.0
"""How long the cluster may take to respond after the last fault."""
Outcome = Literal["committed", "aborted", "unknown"]


def run(
    access: KafkaAccess,
    *,
    clients: int,
    transactions: int,
    seed: int,
    bug: str | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> History:
    """Run transactions with `clients` clients on a new topic, then read the topic.

    `progress` gets the number of transactions begun so far, in any thread.

    Raises:
        CounterfoilError: the cluster is unreachable, or does not come back after a fault.
    """
    topic = f"counterfoil.verify.{seed}.{time.time_ns()}"
    _create(access, topic)
    numbers = _Numbers(transactions, progress)
    all_clients = [
        _Client(access, topic, number, random.Random(f"{seed}/{number}"), numbers, bug=bug)
        for number in range(clients)
    ]

    def work(client: _Client) -> list[Transaction]:
        return client.run()

    with ThreadPoolExecutor(clients) as pool:
        done = list(pool.map(work, all_clients))
    return History(tuple(seen for client in done for seen in client), _final(access, topic))


class _Numbers:
    """Hands out transactions up to a limit, and unique values."""

    def __init__(self, transactions: int, progress: Callable[[int], None]) -> None:
        self._lock = threading.Lock()
        self._progress = progress
        self._limit = transactions
        self._begun = 0
        self._value = 0

    def value(self) -> int:
        with self._lock:
            self._value += 1
            return self._value

    def transaction(self) -> bool:
        """Whether another transaction is to be run."""
        with self._lock:
            if self._begun == self._limit:
                return False
            self._begun += 1
            begun = self._begun
        self._progress(begun)
        return True


class _Client:
    """One client: a producer with its own transactional id, and a consumer."""

    def __init__(
        self,
        access: KafkaAccess,
        topic: str,
        number: int,
        chance: random.Random,
        numbers: _Numbers,
        *,
        bug: str | None,
    ) -> None:
        self._access, self._topic, self._number = access, topic, number
        self._random = chance
        self._numbers = numbers
        self._bug = bug
        self._consumer = Consumer(_reading(access, uncommitted=bug == "read-uncommitted"))
        self._producer: Producer | None = None
        self._next = dict.fromkeys(range(PARTITIONS), 0)
        self._committed = dict(self._next)
        """The positions after the last transaction that took effect."""
        self._sent: list[tuple[int, int]] = []

    def run(self) -> list[Transaction]:
        """Run transactions until the limit, each after the previous one is resolved."""
        seen: list[Transaction] = []
        placed = True
        with closing(self._consumer):
            while self._numbers.transaction():
                if placed:
                    self._place()
                    if self._strikes("skip-placed"):
                        self._pass_over()
                transaction = self._transaction(placed=placed)
                seen.append(transaction)
                placed = transaction.outcome != "committed"
                if placed:
                    self._next = dict(self._committed)
                else:
                    self._committed = dict(self._next)
            self._settled()
        return seen

    def _transaction(self, *, placed: bool) -> Transaction:
        actions: list[Send | Poll] = []
        acknowledged: dict[int, int] = {}
        outcome: Outcome = "unknown"
        producer = self._settled()
        try:
            producer.begin_transaction()
            for _ in range(self._random.randint(1, ACTIONS)):
                if self._random.random() < 0.5:
                    actions.append(Poll(tuple(self._poll())))
                else:
                    actions.append(self._send(producer, acknowledged))
            outcome = self._end(producer)
        except KafkaException:
            self._producer = None  # unknown outcome; the next producer resolves it
        sends = [
            Send(action.partition, action.value, acknowledged.get(action.value))
            if isinstance(action, Send)
            else action
            for action in actions
        ]
        if outcome == "committed":
            self._sent += [(send.partition, send.value) for send in sends if isinstance(send, Send)]
        return Transaction(self._number, outcome, tuple(sends), placed)

    def _send(self, producer: Producer, acknowledged: dict[int, int]) -> Send:
        partition, value = self._random.randrange(PARTITIONS), self._numbers.value()

        def delivered(error: KafkaError | None, message: Message) -> None:
            offset = message.offset()
            if error is None and offset is not None:
                acknowledged[value] = offset

        producer.produce(
            self._topic, str(value).encode(), partition=partition, on_delivery=delivered
        )
        if self._sent and self._strikes("send-twice"):
            earlier, again = self._random.choice(self._sent)
            producer.produce(self._topic, str(again).encode(), partition=earlier)
        return Send(partition, value)

    def _poll(self) -> list[Place]:
        if self._strikes("skip-polls"):
            self._took(self._consumer.consume(POLLED, POLL_SECONDS))
        if self._strikes("rewind"):
            for partition, following in self._next.items():
                self._next[partition] = max(following - 5, 0)
            self._place()
        return self._took(self._consumer.consume(POLLED, POLL_SECONDS))

    def _pass_over(self) -> None:
        """Poll something, if there is anything, without recording it."""
        for _ in range(PATIENCE):  # the first polls after an assignment may be empty
            if self._took(self._consumer.consume(POLLED, POLL_SECONDS)):
                return

    def _took(self, messages: list[Message]) -> list[Place]:
        places: list[Place] = []
        for message in messages:
            if message.error() is not None:
                continue  # the cluster is unavailable: nothing was read
            place = _place_of(message)
            self._next[place.partition] = place.offset + 1
            places.append(place)
        return places

    def _end(self, producer: Producer) -> Outcome:
        if self._random.random() < ABORTED:
            # Flushed first, since aborting unsent values would test nothing.
            producer.flush(CALL_SECONDS)
            producer.abort_transaction(CALL_SECONDS)
            return "committed" if self._strikes("claim-commit") else "aborted"
        producer.commit_transaction(CALL_SECONDS)
        return "committed"

    def _place(self) -> None:
        self._consumer.assign(
            [
                TopicPartition(self._topic, partition, following or OFFSET_BEGINNING)
                for partition, following in self._next.items()
            ]
        )

    def _settled(self) -> Producer:
        """A producer without an open transaction."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while self._producer is None:
            producer = Producer(
                {
                    **self._access.librdkafka(),
                    "transactional.id": f"{self._topic}.{self._number}",
                    "transaction.timeout.ms": 30_000,
                    "linger.ms": 2,
                    "log_level": 2,
                    "error_cb": _unheard,
                }
            )
            try:
                producer.init_transactions(CALL_SECONDS)
            except KafkaException as error:
                if time.monotonic() > deadline:
                    raise _away(self._access, error) from error
            else:
                self._producer = producer
        return self._producer

    def _strikes(self, bug: str) -> bool:
        return self._bug == bug and self._random.random() < BUGGY


def _reading(access: KafkaAccess, *, uncommitted: bool = False) -> dict[str, Any]:
    return {
        **access.librdkafka(),
        "group.id": "counterfoil.verify",
        "isolation.level": "read_uncommitted" if uncommitted else "read_committed",
        "enable.auto.commit": False,
        "auto.offset.reset": "error",
        "reconnect.backoff.max.ms": 500,
        "log_level": 2,
        "error_cb": _unheard,
    }


def _unheard(error: KafkaError) -> None:
    """Ignores errors: those of a transaction are raised by its calls, the rest are retried."""


def _create(access: KafkaAccess, topic: str) -> None:
    settings: dict[str, Any] = {**access.librdkafka(), "error_cb": _unheard, "log_level": 2}
    admin = AdminClient(settings)
    creations = cast(
        "dict[str, Future[None]]", admin.create_topics([NewTopic(topic, PARTITIONS, -1)])
    )
    try:
        creations[topic].result(CALL_SECONDS)
    except KafkaException as error:
        raise _away(access, error) from error


def _final(access: KafkaAccess, topic: str) -> tuple[Place, ...]:
    """Everything committed, from beginning to end."""
    places: list[Place] = []
    waiting = set(range(PARTITIONS))
    deadline = time.monotonic() + SETTLE_SECONDS
    with closing(Consumer({**_reading(access), "enable.partition.eof": True})) as consumer:
        consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in waiting])
        while waiting:
            if time.monotonic() > deadline:
                raise _away(access, f"partitions {waiting} were not read to their end")
            for message in consumer.consume(1_000, POLL_SECONDS):
                error = message.error()
                if error is None:
                    places.append(_place_of(message))
                elif error.code() == KafkaError._PARTITION_EOF:
                    waiting.discard(message.partition() or 0)
    return tuple(places)


def _place_of(message: Message) -> Place:
    partition, offset = message.partition(), message.offset()
    assert partition is not None, "it was consumed"
    assert offset is not None, "it was consumed"
    return Place(partition, offset, int(message.value() or b"0"))


def _away(access: KafkaAccess, why: object) -> CounterfoilError:
    return CounterfoilError(
        f"Kafka at {access.servers}: {why}", hint="start one with `counterfoil engines up kafka`"
    )
