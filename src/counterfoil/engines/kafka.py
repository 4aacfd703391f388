"""Apache Kafka: one small broker that is its own controller (KRaft) and flushes every record."""

import secrets
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from counterfoil.engines import packages
from counterfoil.engines.errors import EngineError, NotInstalled
from counterfoil.engines.ports import free_port
from counterfoil.engines.server import HOST, Launch, Place, Server, Tell, write_private

VERSION = "4.2.1"
"""Brokers from 4.3.0 on, up to at least 4.4.0, lose commits (KAFKA-20734, docs/events.md)."""
HEAP = "512m"
_JARS = f"kafka-{VERSION}"
_DEPENDENCIES = (f"org.apache.kafka:kafka_2.13:{VERSION}", "org.slf4j:slf4j-simple:1.7.36")
Settings = Sequence[tuple[str, object]]
_SETTINGS: Final[Settings] = (
    ("process.roles", "broker,controller"),
    ("node.id", 1),
    ("controller.listener.names", "CONTROLLER"),
    ("auto.create.topics.enable", "false"),
    # One replica here, where production has three.
    ("offsets.topic.replication.factor", 1),
    ("offsets.topic.num.partitions", 4),
    ("transaction.state.log.replication.factor", 1),
    ("transaction.state.log.min.isr", 1),
    ("transaction.state.log.num.partitions", 4),
    ("share.coordinator.state.topic.replication.factor", 1),
    ("share.coordinator.state.topic.min.isr", 1),
    ("share.coordinator.state.topic.num.partitions", 4),
    ("group.initial.rebalance.delay.ms", 0),
    # A killed broker can rejoin only after its old session has expired.
    ("broker.heartbeat.interval.ms", 500),
    ("broker.session.timeout.ms", 4_000),
    ("log.segment.bytes", 64 * 1024 * 1024),
    # A single broker has no replicas, so records are on disk before they are acknowledged.
    ("log.flush.interval.messages", 1),
)


class Kafka(Server):
    """The broker from its published jars."""

    kind = "kafka"

    def install(self, tell: Tell) -> None:
        if not shutil.which("java"):
            raise NotInstalled("java is missing", hint="apt-get install openjdk-17-jre-headless")
        packages.jars(_JARS, _DEPENDENCIES, tell)

    def prepare(self, place: Place) -> Launch:
        settings = [*_SETTINGS, ("log.dirs", place.folder / "log"), *self.listeners(place)]
        file = write_private(
            place.folder / "server.properties",
            "".join(f"{key}={value}\n" for key, value in settings),
        )
        if not (place.folder / "log" / "meta.properties").exists():
            _format(file, self.credentials(place))
        return Launch([*_java(HEAP), "kafka.Kafka", str(file)])

    def listeners(self, place: Place) -> Settings:
        """The clients' port may differ in each run; the controller's is stored in the quorum."""
        kept = place.folder / "controller-port"
        if not kept.exists():
            kept.write_text(str(free_port()))
        controller = f"{HOST}:{kept.read_text()}"
        client = f"{HOST}:{place.port}"
        return [
            ("controller.quorum.bootstrap.servers", controller),
            ("listeners", f"PLAINTEXT://{client},CONTROLLER://{controller}"),
            ("advertised.listeners", f"PLAINTEXT://{client}"),
        ]

    def credentials(self, place: Place) -> list[str]:
        """The options of Kafka's format that create users; none if there is no authentication."""
        del place
        return []


def _format(file: Path, credentials: Sequence[str]) -> None:
    # The prefix keeps the id from beginning with a dash.
    identity = "C" + secrets.token_urlsafe(16)[:21]
    options = ["format", "--standalone", "--ignore-formatted", f"--cluster-id={identity}"]
    options += [*credentials, "-c", str(file)]
    # In a file, since arguments are visible to other users' process listings.
    given = write_private(file.with_name("format-options"), "\n".join(options))
    command = [*_java("256m"), "kafka.tools.StorageTool", f"@{given}"]
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True)
    finally:
        given.unlink()
    if done.returncode:
        raise EngineError(f"kafka's format ended with {done.returncode}: {done.stdout[-500:]}")


def _java(heap: str) -> list[str]:
    level = "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"
    jars = packages.home() / _JARS / "*"
    return ["java", f"-Xmx{heap}", "-XX:+UseSerialGC", level, "-cp", str(jars)]
