"""Kafka: acknowledged records must outlive a broker, and transactions must be the ones of KIP-890.

Which features brokers support and have finalised is told by one call alone that librdkafka does not
offer; it is asked where a listener is greeted (`kafka_greeting.py`).

A hosted cluster may keep its settings to itself, all or some. What is not told is neither good nor
broken: it is said to be unknown, with what to ask its provider for.
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
"""How long the first answer is waited for: a password that is refused is noticed no sooner."""
ANSWER_SECONDS: Final = SECONDS + 2
"""Longer than a request may take, so that its own error is heard and not that of waiting for it."""
TRANSACTION_VERSION: Final = 2
TRANSACTION_MS: Final = 30_000
MESSAGE_BYTES: Final = 1 << 20
"""Just above what our producers send at most, and just below the default of brokers."""
REPLICAS: Final = 3
FORGETS_COMMITS: Final = 30
"""The metadata.version that brokers from 4.3.0 on support, and none before them (KAFKA-20734)."""


@dataclass(frozen=True, slots=True)
class _Expected:
    """What a setting of the brokers must be."""

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
    """The same, of brokers that are open to whoever reaches them."""
    del secret, now
    return check_kafka(KafkaAccess(address))


def check_kafka(access: KafkaAccess) -> list[Finding]:
    """Who is let in; features, replication, elections and timeouts of the brokers.

    The clock is not asked for: a broker tells no time, and times of records are their producers'.

    Raises:
        PasswordMissing: there is no password for the user, so that nothing can be found out.
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
        # A coordinator that finds no leader takes the topic for deleted and never writes the marker
        # of the commit: the transaction's events are lost, or come twice. A partition with
        # replicas has no leader only once all of them are gone.
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
    """The number of brokers, and the settings of the first, as far as they are told.

    Brokers don't tell them to a user without the right, and hosted ones may not tell at all.

    Raises:
        Refused: the brokers did not let this user in, or did not answer.
    """
    from confluent_kafka import KafkaError, KafkaException  # noqa: PLC0415 - an extra
    from confluent_kafka.admin import AdminClient  # noqa: PLC0415
    from confluent_kafka.admin._config import ConfigResource  # noqa: PLC0415

    said: list[KafkaError] = []
    connection: dict[str, Any] = {**access.librdkafka(), "log_level": 2, "error_cb": said.append}
    try:
        admin = AdminClient(connection)
    except KafkaException as error:  # files that our OpenSSL takes, and librdkafka's does not
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
        if said_no.code() < 0 or said_no.retriable():  # below 0 are the client's own
            raise _no_answer(access, said_no.str()) from error
        return len(brokers), {}
    return len(brokers), {name: entry.value for name, entry in entries.items() if entry.value}


def _metadata(
    access: KafkaAccess, admin: "AdminClient", said: "list[KafkaError]"
) -> "ClusterMetadata":
    """What the cluster says of itself, asked for as long as nobody has refused the password.

    An answer that comes too late is lost, so each try waits twice as long as the one before, and
    the last one for all that is left.
    """
    from confluent_kafka import KafkaError, KafkaException  # noqa: PLC0415

    deadline = time.monotonic() + SECONDS
    left, patience = SECONDS, LOOK_SECONDS
    while True:
        try:
            # The last one is the one after which no longer one would fit.
            return admin.list_topics(timeout=left if left < 3 * patience else patience)
        except KafkaException as error:
            admin.poll(0)  # tells what has been said
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
                # The address in the metadata may be another than the one that was greeted.
                reasons = dict.fromkeys(each.str() for each in said)
                raise _no_answer(access, "; ".join(reasons) or error.args[0].str()) from error


def _no_answer(access: KafkaAccess, error: str) -> Refused:
    remedy = "correct [addresses] kafka, or the brokers' advertised.listeners"
    return silent(f"{access.servers}: {error}", remedy)
