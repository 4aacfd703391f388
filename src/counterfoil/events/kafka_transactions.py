"""Transactions on Kafka, by the admin APIs of KIP-664.

librdkafka doesn't support these APIs. Kafka's own tool needs a JVM for each call, and jars that are
not installed beside a remote cluster. kafka-python supports them, is maintained and needs nothing
else. It is used only for this: the data path is librdkafka's.

A transaction of an id is aborted as a new term would: by initialising the id, which aborts what is
open and fences its holder. A hanging transaction has no coordinator to ask; there the partition's
leader is told to write the marker.
"""

import logging
from collections.abc import Generator, Iterable
from contextlib import closing, contextmanager
from importlib import import_module
from typing import Any, Final

from counterfoil.events.errors import LogUnavailable, NoSuchTransaction
from counterfoil.events.kafka_client import TRANSACTION_MS
from counterfoil.events.transactions import UNFINISHED, Hanging, State, Transaction
from counterfoil.kafka_access import KafkaAccess

CALL_MS: Final = 10_000
_STATES: Final[dict[str, State]] = {
    "Empty": "empty",
    "Ongoing": "open",
    "PrepareCommit": "committing",
    "PrepareAbort": "aborting",
    "PrepareEpochFence": "aborting",
    "CompleteCommit": "committed",
    "CompleteAbort": "aborted",
    "Dead": "dead",
}
_own = logging.getLogger("kafka")
_own.addHandler(logging.NullHandler())  # errors are raised


class KafkaTransactions:
    """The transactions of `application` on a cluster."""

    def __init__(self, access: KafkaAccess, application: str) -> None:
        self._access = access
        self._prefix = f"{application}."

    def newest(self, now_us: int) -> list[Transaction]:
        """The newest transaction of each transactional id of this application."""
        with self._admin() as admin:
            known = {
                listing.transactional_id
                for listings in admin.list_transactions().values()
                for listing in listings
                if listing.transactional_id.startswith(self._prefix)
            }
            described = _describe(admin, sorted(known))
        return [_transaction(name, each, now_us) for name, each in described.items()]

    def hanging(self, now_us: int, idle_seconds: float) -> list[Hanging]:
        """Transactions that are open in a partition, but in progress at no coordinator.

        The coordinator may have another transaction of the same id by then: what counts is the
        producer and the epoch in the partition.
        """
        with self._admin() as admin:
            found = list(self._open_in_partitions(admin, now_us))
            # After the partitions, and then these again: a transaction may have ended meanwhile.
            under_way = self._under_way(admin)
            again = {
                (each.partition, each.producer_id, each.producer_epoch)
                for each in self._open_in_partitions(admin, now_us)
            }
        return [
            each
            for each in found
            if each.idle_seconds >= idle_seconds
            and (each.producer_id, each.producer_epoch, each.partition) not in under_way
            and (each.partition, each.producer_id, each.producer_epoch) in again
        ]

    def abort(self, identity: str) -> None:
        """Initialise a transactional id, as a new term of its holder would."""
        if identity not in {each.id for each in self.newest(0) if each.state in UNFINISHED}:
            raise NoSuchTransaction(
                f"{identity} has no open transaction",
                hint="see `counterfoil events transactions`",
            )
        from confluent_kafka import KafkaException, Producer  # noqa: PLC0415 - an extra

        settings: dict[str, Any] = {
            **self._access.librdkafka(),
            "transactional.id": identity,
            # As its holder has it: brokers reject a timeout above their limit.
            "transaction.timeout.ms": TRANSACTION_MS,
            "log_level": 2,
        }
        try:
            producer = Producer(settings)
            producer.init_transactions(CALL_MS / 1_000)
        except KafkaException as error:
            raise LogUnavailable(f"Kafka: {error.args[0].str()}") from error

    def abort_hanging(self, hanging: Hanging) -> None:
        """Tell the partition's leader to write the marker."""
        kafka = import_module("kafka")
        specification = import_module("kafka.admin._transactions").AbortTransactionSpec
        topic, _, number = hanging.partition.rpartition("/")
        place = kafka.TopicPartition(self._prefix + topic, int(number))
        with self._admin() as admin:
            still = admin.describe_producers([place])[place].active_producers
            if not any(
                each.producer_id == hanging.producer_id
                and each.producer_epoch == hanging.producer_epoch
                and each.current_transaction_start_offset == hanging.first_offset
                for each in still
            ):
                raise NoSuchTransaction(f"it is not open in {hanging.partition} any more")
            admin.abort_transaction(
                specification(
                    place,
                    hanging.producer_id,
                    hanging.producer_epoch,
                    # As Kafka's own tool does if no coordinator has written yet.
                    max(hanging.coordinator_epoch, 0),
                )
            )

    def _open_in_partitions(self, admin: Any, now_us: int) -> Iterable[Hanging]:
        kafka = import_module("kafka")
        places = [
            kafka.TopicPartition(topic["name"], partition["partition_index"])
            for topic in admin.describe_topics()
            if topic["name"].startswith(self._prefix)
            for partition in topic["partitions"]
        ]
        for place, state in admin.describe_producers(places).items():
            for producer in state.active_producers:
                if producer.current_transaction_start_offset >= 0:
                    yield Hanging(
                        self._named(place),
                        producer.current_transaction_start_offset,
                        producer.producer_id,
                        producer.producer_epoch,
                        producer.coordinator_epoch,
                        now_us / 1_000_000 - producer.last_timestamp / 1_000,
                    )

    def _under_way(self, admin: Any) -> set[tuple[int, int, str]]:
        """(producer, epoch, partition) of all transactions in progress in the cluster."""
        names = {
            listing.transactional_id
            for listings in admin.list_transactions().values()
            for listing in listings
        }
        return {
            (each.producer_id, each.producer_epoch, self._named(place))
            for each in _describe(admin, sorted(names)).values()
            if _STATES.get(each.state.value) in UNFINISHED
            for place in each.topic_partitions
        }

    def _named(self, place: Any) -> str:
        return f"{place.topic.removeprefix(self._prefix)}/{place.partition}"

    @contextmanager
    def _admin(self) -> Generator[Any, None, None]:
        kafka, errors = import_module("kafka"), import_module("kafka.errors")
        # At DEBUG it logs its settings and every request, passwords included.
        _own.setLevel(logging.INFO)
        try:
            with closing(
                kafka.KafkaAdminClient(
                    **self._access.kafka_python(),
                    client_id="counterfoil",
                    bootstrap_timeout_ms=CALL_MS,
                    request_timeout_ms=CALL_MS,
                )
            ) as admin:
                yield admin
        except (OSError, errors.KafkaError) as error:
            hint = "`counterfoil engines check` says who is not let in, and why"
            raise LogUnavailable(f"Kafka: {type(error).__name__}: {error}", hint=hint) from error


def _describe(admin: Any, names: list[str]) -> dict[str, Any]:
    """Describe transactional ids; those that have just expired are left out."""
    unknown = import_module("kafka.errors").TransactionalIdNotFoundError
    try:
        return admin.describe_transactions(names)
    except unknown:
        found: dict[str, Any] = {}
        for name in names:
            try:
                found |= admin.describe_transactions([name])
            except unknown:
                continue
        return found


def _transaction(name: str, found: Any, now_us: int) -> Transaction:
    state = _STATES.get(found.state.value, "dead")
    began_ms: int = found.transaction_start_time_ms
    is_open = state in UNFINISHED and began_ms >= 0
    places = sorted(f"{place.topic}/{place.partition}" for place in found.topic_partitions)
    return Transaction(
        id=name,
        state=state,
        holder=f"producer {found.producer_id}, epoch {found.producer_epoch}",
        age_seconds=now_us / 1_000_000 - began_ms / 1_000 if is_open else None,
        timeout_seconds=found.transaction_timeout_ms / 1_000,
        partitions=places,
        producer_id=found.producer_id,
        producer_epoch=found.producer_epoch,
    )
