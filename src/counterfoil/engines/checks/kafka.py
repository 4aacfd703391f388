"""Kafka: acknowledged records must survive a broker, and transactions must have KIP-890.

The features that brokers support and have finalized are known only from a request that librdkafka
doesn't offer; `kafka_greeting.py` sends it.

A hosted cluster may hide some or all of its settings. Hidden settings are reported as unknown, with
what to ask the provider for.
"""

import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

from counterfoil.engines.checks.finding import Finding, Level
from counterfoil.engines.checks.kafka_greeting import SECONDS, Refused, greet, silent, unusable
from counterfoil.kafka_access import PASSWORD, KafkaAccess

if TYPE_CHECKING:
    from confluent_kafka import KafkaError
    from confluent_kafka.admin import AdminClient
    from confluent_kafka.admin._metadata import ClusterMetadata

LOOK_SECONDS: Final = 0.5
"""The first timeout for metadata: a refused password is not noticed earlier."""
ANSWER_SECONDS: Final = SECONDS + 2
"""Longer than a request's timeout, so that the request's own error is reported."""
TRANSACTION_VERSION: Final = 2
TRANSACTION_MS: Final = 30_000
MESSAGE_BYTES: Final = 1 << 20
"""Just above the largest message of our producers, and just below the brokers' default."""
REPLICAS: Final = 3
FORGETS_COMMITS: Final = 30
"""A metadata.version supported by brokers from 4.3.0 on, and by none before (KAFKA-20734)."""


@dataclass(frozen=True, slots=True)
class _Expected:
    """The required value of a broker setting."""

    setting: str
    level: Level
    needed: str
    holds: Callable[[str], bool]
    remedy: str


def _at_least(number: int) -> Callable[[str], bool]:
    return lambda found: found.isdecimal() and int(found) >= number


def _expected() -> list[_Expected]:
    reassign = "raise it; topics that exist keep theirs until they are reassigned"
    replicated = {
        "default.replication.factor": REPLICAS,
        "offsets.topic.replication.factor": REPLICAS,
        "transaction.state.log.replication.factor": REPLICAS,
        "min.insync.replicas": REPLICAS - 1,
        "transaction.state.log.min.isr": REPLICAS - 1,
    }
    return [
        _Expected(
            "unclean.leader.election.enable",
            Level.BREAKS,
            "false",
            lambda found: found == "false",
            "set it to false: a replica that has fallen behind would forget records",
        ),
        _Expected(
            "transaction.max.timeout.ms",
            Level.BREAKS,
            f"{TRANSACTION_MS} or more",
            _at_least(TRANSACTION_MS),
            "raise it: a relay asks for as much",
        ),
        _Expected(
            "message.max.bytes",
            Level.BREAKS,
            f"{MESSAGE_BYTES} or more",
            _at_least(MESSAGE_BYTES),
            "raise it: a large event would hold back all that come after it",
        ),
        *(
            _Expected(name, Level.WEAKENS, f"{number} or more", _at_least(number), reassign)
            for name, number in replicated.items()
        ),
        _Expected(
            "auto.create.topics.enable",
            Level.WEAKENS,
            "false",
            lambda found: found == "false",
            "set it to false: a mistyped topic would be made with the wrong partitions",
        ),
    ]


_EXPECTED: Final = _expected()


def check(address: str, secret: str | None, now: float) -> list[Finding]:
    """As `check_kafka`, for brokers without authentication."""
    del secret, now
    return check_kafka(KafkaAccess(address))


def check_kafka(access: KafkaAccess) -> list[Finding]:
    """Access, features, replication, elections and timeouts of the brokers.

    The clock is not checked: brokers report no time, and records have their producers' timestamps.

    Raises:
        PasswordMissing: there is no password for the user, so nothing can be checked.
    """
    access.require_password()
    try:
        features = greet(access)
        brokers, settings = _settings(access)
    except Refused as refused:
        return [refused.finding]
    findings = _judge(*features, brokers, settings)
    if access.protocol == "SASL_PLAINTEXT":
        remedy = "take the port of a listener with TLS, and SASL_SSL"
        found = "SASL_PLAINTEXT: whoever is on the way reads events"
        if access.mechanism == "PLAIN":
            found += ", and the password"
        findings.append(Finding("kafka", Level.WEAKENS, "protocol", found, "SASL_SSL", remedy))
    return findings


def _judge(
    supported: dict[str, int], finalised: dict[str, int], brokers: int, settings: dict[str, str]
) -> list[Finding]:
    findings: list[Finding] = []

    def say(level: Level, setting: str, found: object, needed: object, remedy: str) -> None:
        findings.append(Finding("kafka", level, setting, str(found), str(needed), remedy))

    if supported.get("metadata.version", 0) >= FORGETS_COMMITS:
        # A coordinator that finds no leader considers the topic deleted and never writes the commit
        # marker: the transaction's events are lost, or duplicated. A replicated partition has no
        # leader only if all replicas are down.
        level = Level.BREAKS if brokers < REPLICAS else Level.WEAKENS
        remedy = "run 4.2.1: later brokers forget a commit while a partition has no leader"
        say(level, "version", "4.3 or later", "4.0 to 4.2 (KAFKA-20734)", remedy)
    version = finalised.get("transaction.version", 0)
    if version < TRANSACTION_VERSION:
        remedy = "kafka-features upgrade --feature transaction.version=2 (brokers 4.0 or later)"
        needed = f"{TRANSACTION_VERSION} or more"
        say(Level.BREAKS, "transaction.version", version, needed, remedy)
    if brokers < REPLICAS:
        remedy = "run 3 brokers on machines of their own"
        say(Level.WEAKENS, "brokers", brokers, f"{REPLICAS} or more", remedy)
    for each in _EXPECTED:
        found = settings.get(each.setting)
        if found is None:
            remedy = (
                "ask whoever runs the brokers for it"
                if settings
                else "allow the user DescribeConfigs on the cluster, check as somebody who may, "
                "or ask whoever runs the brokers for it"
            )
            say(Level.UNKNOWN, each.setting, "not told", each.needed, remedy)
        elif not each.holds(found):
            say(each.level, each.setting, found, each.needed, each.remedy)
    return findings


def _settings(access: KafkaAccess) -> tuple[int, dict[str, str]]:
    """The number of brokers, and the settings of the first, as far as they are reported.

    Brokers report them only to users with the right to see them, hosted ones possibly to none.

    Raises:
        Refused: the brokers refused this user, or did not answer.
    """
    from confluent_kafka import KafkaError, KafkaException  # noqa: PLC0415 - an extra
    from confluent_kafka.admin import AdminClient  # noqa: PLC0415
    from confluent_kafka.admin._config import ConfigResource  # noqa: PLC0415

    said: list[KafkaError] = []
    connection: dict[str, Any] = {**access.librdkafka(), "log_level": 2, "error_cb": said.append}
    try:
        admin = AdminClient(connection)
    except KafkaException as error:  # files that Python's OpenSSL accepts, but librdkafka's doesn't
        raise unusable(access, error.args[0].str()) from error
    brokers = sorted(_metadata(access, admin, said).brokers)
    resource = ConfigResource(ConfigResource.Type.BROKER, str(brokers[0]))
    asked = cast(
        "dict[ConfigResource, Future[dict[str, Any]]]",
        admin.describe_configs([resource], request_timeout=SECONDS),
    )
    try:
        entries = asked[resource].result(ANSWER_SECONDS)
    except TimeoutError as error:
        raise _no_answer(access, "settings were not told in time") from error
    except KafkaException as error:
        said_no: KafkaError = error.args[0]
        if said_no.code() < 0 or said_no.retriable():  # negative codes are librdkafka's own
            raise _no_answer(access, said_no.str()) from error
        return len(brokers), {}
    return len(brokers), {name: entry.value for name, entry in entries.items() if entry.value}


def _metadata(
    access: KafkaAccess, admin: "AdminClient", said: "list[KafkaError]"
) -> "ClusterMetadata":
    """The cluster's metadata; retried until the deadline, unless the password is refused.

    A late answer is lost, so each attempt has twice the timeout of the one before, and the last one
    all the remaining time.
    """
    from confluent_kafka import KafkaError, KafkaException  # noqa: PLC0415

    deadline = time.monotonic() + SECONDS
    left, patience = SECONDS, LOOK_SECONDS
    while True:
        try:
            # It is the last attempt if no longer one would fit afterwards.
            return admin.list_topics(timeout=left if left < 3 * patience else patience)
        except KafkaException as error:
            admin.poll(0)  # delivers errors to `said`
            for each in said:
                if each.code() == KafkaError._AUTHENTICATION:
                    raise Refused(
                        "user",
                        f"{access.user}, whom {access.servers} does not let in: {each.str()}",
                        f"a user with the password in {PASSWORD}",
                        f"set user of [kafka] and {PASSWORD}; SCRAM users are made by "
                        "kafka-configs --add-config, for each mechanism",
                    ) from error
            left, patience = deadline - time.monotonic(), 2 * patience
            if left <= 0:
                # The advertised address may differ from the one that was greeted.
                reasons = dict.fromkeys(each.str() for each in said)
                raise _no_answer(access, "; ".join(reasons) or error.args[0].str()) from error


def _no_answer(access: KafkaAccess, error: str) -> Refused:
    remedy = "correct [addresses] kafka, or the brokers' advertised.listeners"
    return silent(f"{access.servers}: {error}", remedy)
