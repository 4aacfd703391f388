"""The ACLs that a Kafka user needs, checked at start.

Without this, a relay would fail in its first term, when services have already accepted requests.
Topics and groups are described with the operations that they allow. Transactional ids can't be:
one that nothing else uses is initialised instead. Without authentication there is nothing to check.
"""

import logging
import time
from collections.abc import Iterable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from counterfoil.events.errors import EventsError, LogUnavailable
from counterfoil.events.kafka_client import (
    CALL_SECONDS,
    FETCH_SECONDS,
    GROUPS,
    READER,
    TRANSACTION_MS,
    unauthorised,
)
from counterfoil.kafka_access import KafkaAccess

if TYPE_CHECKING:
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient
    from confluent_kafka.admin._acl import AclOperation
    from confluent_kafka.admin._topic import TopicDescription

_ASKED: Final = "rights"
_ANSWER_SECONDS: Final = CALL_SECONDS + 2
"""Longer than a request may take, so that its own error is raised and not this timeout's."""
_unheard = logging.getLogger("counterfoil.kafka.rights")
_unheard.addHandler(logging.NullHandler())  # errors are raised
_unheard.propagate = False


class Right(NamedTuple):
    """An operation on the resources of a type whose names begin with `prefix`."""

    resource: str
    """The option of `kafka-acls`, without its dashes."""
    prefix: str
    operation: str

    def command(self, user: str) -> str:
        """The command with which an administrator grants it to a user."""
        return (
            f"kafka-acls --add --allow-principal User:{user} --operation {self.operation} "
            f"--{self.resource} {self.prefix} --resource-pattern-type prefixed"
        )


def needed(application: str) -> list[Right]:
    """All that an application's processes need; Read and Write imply Describe."""
    return [
        *(Right("topic", f"{application}.", each) for each in ("Create", "Read", "Write")),
        Right("transactional-id", f"{application}.", "Write"),
        Right("group", GROUPS, "Describe"),
    ]


def check_rights(access: KafkaAccess, application: str, topics: Iterable[str]) -> None:
    """Check that the user has an application's rights on existing topics, ids and groups.

    Raises:
        EventsError: rights are missing; names them and the commands that grant them.
        LogUnavailable: the brokers did not answer.
    """
    from confluent_kafka import KafkaException  # noqa: PLC0415 - an extra
    from confluent_kafka.admin import AdminClient  # noqa: PLC0415

    connection: dict[str, Any] = {**access.librdkafka(), "logger": _unheard, "log_level": 2}
    refused: set[tuple[str, str]] = set()
    try:
        admin = AdminClient(connection)
        refused |= {("topic", each) for each in _refused_topics(admin, list(topics))}
        if _refuses_id(connection, f"{application}.{_ASKED}"):
            refused.add(("transactional-id", "Write"))
        if _refuses_group(admin):
            refused.add(("group", "Describe"))
    except KafkaException as error:
        raise LogUnavailable(f"Kafka: {error.args[0].str()}") from error
    except TimeoutError as error:
        raise LogUnavailable("Kafka did not answer in time") from error
    missing = [right for right in needed(application) if right[::2] in refused]
    if missing:
        user = access.user or "its certificate's name"
        said = ", ".join(f"{each.operation} on {each.resource} {each.prefix}*" for each in missing)
        commands = "; ".join(each.command(access.user or "NAME") for each in missing)
        raise EventsError(
            f"Kafka does not allow {user}: {said}", hint=f"{commands} (docs/events.md has them all)"
        )


def _refused_topics(admin: "AdminClient", names: list[str]) -> set[str]:
    """Those of Read and Write that some topic doesn't allow."""
    from confluent_kafka import KafkaException  # noqa: PLC0415

    refused: set[str] = set()
    for name in names:
        try:
            allowed = _described(admin, name).authorized_operations or []
        except KafkaException as error:
            if not _unauthorised(error):
                raise
            allowed: list[AclOperation] = []
        refused |= {"Read", "Write"} - {each.name.capitalize() for each in allowed}
    return refused


def _described(admin: "AdminClient", name: str) -> "TopicDescription":
    """Describe a topic; retry while the broker doesn't know it yet, as it may be new."""
    from confluent_kafka import KafkaError, KafkaException, TopicCollection  # noqa: PLC0415

    deadline = time.monotonic() + CALL_SECONDS
    while True:
        asked = cast(
            "dict[str, Future[TopicDescription]]",
            admin.describe_topics(
                TopicCollection([name]),
                include_authorized_operations=True,
                request_timeout=CALL_SECONDS,
            ),
        )
        try:
            return asked[name].result(_ANSWER_SECONDS)
        except KafkaException as error:
            new = error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART
            if not new or time.monotonic() > deadline:
                raise
            time.sleep(FETCH_SECONDS)


def _refuses_id(connection: dict[str, Any], transactional_id: str) -> bool:
    from confluent_kafka import KafkaException, Producer  # noqa: PLC0415

    producer = Producer(
        {
            **connection,
            "transactional.id": transactional_id,
            # As a relay has it: brokers reject a timeout above their limit.
            "transaction.timeout.ms": TRANSACTION_MS,
        }
    )
    try:
        producer.init_transactions(CALL_SECONDS)
    except KafkaException as error:
        if not _unauthorised(error):
            raise
        return True
    producer.close()
    return False


def _refuses_group(admin: "AdminClient") -> bool:
    from confluent_kafka import KafkaException  # noqa: PLC0415

    asked = cast(
        "dict[str, Future[object]]",
        admin.describe_consumer_groups([READER], request_timeout=CALL_SECONDS),
    )
    try:
        asked[READER].result(_ANSWER_SECONDS)
    except KafkaException as error:
        return _unauthorised(error)  # otherwise there is no such group, as expected
    return False


def _unauthorised(error: "KafkaException") -> bool:
    return error.args[0].code() in unauthorised()
