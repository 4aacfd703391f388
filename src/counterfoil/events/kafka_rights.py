"""The ACLs that a Kafka user needs, checked before anything relies on them.

Without this a relay would find out in its first term, when payments are already taken. Topics and
groups are asked what they allow. A transactional id can't be asked: one is taken that nothing else
uses. Users whom no listener asks for have no rights to be asked for either.
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
"""Longer than a request may take, so that its own error is heard and not that of waiting for it."""
_unheard = logging.getLogger("counterfoil.kafka.rights")
_unheard.addHandler(logging.NullHandler())  # what is refused here is raised
_unheard.propagate = False


class Right(NamedTuple):
    """An operation on the resources of a type whose names begin with `prefix`."""

    resource: str
    """In the words of `kafka-acls`, without the dashes."""
    prefix: str
    operation: str

    def command(self, user: str) -> str:
        """What an administrator runs to give it to a user."""
        return (
            f"kafka-acls --add --allow-principal User:{user} --operation {self.operation} "
            f"--{self.resource} {self.prefix} --resource-pattern-type prefixed"
        )


def needed(application: str) -> list[Right]:
    """All that the processes of an application need; what is Read or Write is Describe as well."""
    return [
        *(Right("topic", f"{application}.", each) for each in ("Create", "Read", "Write")),
        Right("transactional-id", f"{application}.", "Write"),
        Right("group", GROUPS, "Describe"),
    ]


def check_rights(access: KafkaAccess, application: str, topics: Iterable[str]) -> None:
    """See that the user may do with these topics, which exist, what an application does with them.

    Raises:
        EventsError: it may not; names the rights that are missing and who can give them.
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
    """Read and Write, where some topic allows it not."""
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
    """A topic, once the broker that is asked has heard of it: it may have been made just now."""
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
            # As a relay asks: brokers refuse an id to whoever wants longer than they allow.
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
        return _unauthorised(error)  # or there is no such group, which is how it should be
    return False


def _unauthorised(error: "KafkaException") -> bool:
    return error.args[0].code() in unauthorised()
