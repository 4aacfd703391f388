"""Kafka: acknowledged records must outlive a broker, and transactions must be the ones of KIP-890.

Which features brokers support and have finalised is told by one call alone that librdkafka does not
offer, so this speaks that much of Kafka's protocol (ApiVersions, version 3) itself.
"""

import socket
import struct
from concurrent.futures import Future
from typing import Any, Final, cast

from counterfoil.engines.checks.finding import Finding, Level, unreachable

SECONDS: Final = 5.0
TRANSACTION_VERSION: Final = 2
TRANSACTION_MS: Final = 30_000
REPLICAS: Final = 3
FORGETS_COMMITS: Final = 30
"""The metadata.version that brokers from 4.3.0 on support, and none before them (KAFKA-20734)."""
_REPLICATED: Final = (
    "default.replication.factor",
    "offsets.topic.replication.factor",
    "transaction.state.log.replication.factor",
)
_IN_SYNC: Final = ("min.insync.replicas", "transaction.state.log.min.isr")


def check(address: str, secret: str | None, now: float) -> list[Finding]:
    """Features, replication, elections and timeouts of the brokers.

    The clock is not asked for: a broker tells no time, and times of records are their producers'.
    """
    del secret, now
    from confluent_kafka import KafkaException  # noqa: PLC0415 - an extra

    try:
        supported, finalised = _features(address.partition(",")[0])
        brokers, settings = _settings(address)
    except (OSError, struct.error, KafkaException) as error:
        return unreachable("kafka", address, error, "start it, or correct [addresses] kafka")
    return _judge(supported, finalised, brokers, settings)


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
    if settings.get("unclean.leader.election.enable") != "false":
        remedy = "set it to false: a replica that has fallen behind would forget records"
        say(Level.BREAKS, "unclean.leader.election.enable", "true", "false", remedy)
    longest = int(settings.get("transaction.max.timeout.ms", 0))
    if longest < TRANSACTION_MS:
        remedy = "raise it: a relay asks for as much"
        say(Level.BREAKS, "transaction.max.timeout.ms", longest, TRANSACTION_MS, remedy)
    if brokers < REPLICAS:
        remedy = "run 3 brokers on machines of their own"
        say(Level.WEAKENS, "brokers", brokers, f"{REPLICAS} or more", remedy)
    for names, needed in ((_REPLICATED, REPLICAS), (_IN_SYNC, REPLICAS - 1)):
        for name in names:
            found = int(settings.get(name, 1))
            if found < needed:
                remedy = "raise it; topics that exist keep theirs until they are reassigned"
                say(Level.WEAKENS, name, found, f"{needed} or more", remedy)
    if settings.get("auto.create.topics.enable") == "true":
        remedy = "set it to false: a mistyped topic would be made with the wrong partitions"
        say(Level.WEAKENS, "auto.create.topics.enable", "true", "false", remedy)
    return findings


def _settings(servers: str) -> tuple[int, dict[str, str]]:
    """The number of brokers, and the settings of the first."""
    from confluent_kafka.admin import AdminClient  # noqa: PLC0415
    from confluent_kafka.admin._config import ConfigResource  # noqa: PLC0415

    admin = AdminClient({"bootstrap.servers": servers, "log_level": 2})
    brokers = sorted(admin.list_topics(timeout=SECONDS).brokers)
    resource = ConfigResource(ConfigResource.Type.BROKER, str(brokers[0]))
    asked = cast(
        "dict[ConfigResource, Future[dict[str, Any]]]",
        admin.describe_configs([resource], request_timeout=SECONDS),
    )
    entries = asked[resource].result(SECONDS)
    return len(brokers), {name: entry.value for name, entry in entries.items() if entry.value}


def _features(server: str) -> tuple[dict[str, int], dict[str, int]]:
    """The newest level of each feature that a broker supports, and those that are finalised."""
    host, _, port = server.rpartition(":")
    with socket.create_connection((host, int(port)), SECONDS) as connection:
        connection.settimeout(SECONDS)
        software = b"\x0ccounterfoil\x021\x00"  # name, version, no tagged fields
        request = struct.pack(">hhih", 18, 3, 1, -1) + b"\x00" + software
        connection.sendall(struct.pack(">i", len(request)) + request)
        answers = connection.makefile("rb")
        (length,) = struct.unpack(">i", answers.read(4))
        return _Answer(answers.read(length)).features()


class _Answer:
    """Reads Kafka's compact encoding (KIP-482)."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._at = 0

    def features(self) -> tuple[dict[str, int], dict[str, int]]:
        self._take(4)  # correlation id
        (error,) = struct.unpack(">h", self._take(2))
        if error:
            raise OSError(f"the broker refused ApiVersions with error {error}")
        for _ in range(self._varint() - 1):
            self._take(6)  # key, oldest and newest version
            self._skip_tags()
        self._take(4)  # throttle time
        supported: dict[str, int] = {}
        finalised: dict[str, int] = {}
        for _ in range(self._varint()):
            tag, length = self._varint(), self._varint()
            end = self._at + length
            if tag == 0:
                supported = self._levels(">2xh")  # oldest, newest
            elif tag == 2:
                finalised = self._levels(">h2x")  # newest, oldest
            self._at = end
        return supported, finalised

    def _levels(self, layout: str) -> dict[str, int]:
        found: dict[str, int] = {}
        for _ in range(self._varint() - 1):
            name = self._take(self._varint() - 1).decode()
            (found[name],) = struct.unpack(layout, self._take(4))
            self._skip_tags()
        return found

    def _skip_tags(self) -> None:
        for _ in range(self._varint()):
            self._varint()
            self._take(self._varint())

    def _varint(self) -> int:
        value = shift = 0
        while True:
            (byte,) = self._take(1)
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    def _take(self, number: int) -> bytes:
        taken = self._content[self._at : self._at + number]
        if len(taken) < number:
            raise OSError("the broker's answer ended early")
        self._at += number
        return taken
