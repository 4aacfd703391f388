"""The real engines, started when a test first asks for one and stopped at the end."""

import secrets
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import pytest
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from counterfoil.engines import RunningEngine, secured_kafka, start
from counterfoil.events.kafka_rights import Right, needed
from counterfoil.kafka_access import KafkaAccess

RESOURCES = {
    "topic": ResourceType.TOPIC,
    "group": ResourceType.GROUP,
    "transactional-id": ResourceType.TRANSACTIONAL_ID,
    "cluster": ResourceType.BROKER,  # librdkafka's name for it
}


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], RunningEngine]]:
    """Gives the engine of a name, one for the whole session; whoever breaks it mends it."""
    running: dict[str, RunningEngine] = {}

    def find(name: str) -> RunningEngine:
        if name not in running:
            running[name] = start(name, tmp_path_factory.mktemp(name))
        return running[name]

    yield find
    for each in running.values():
        each.stop()


@pytest.fixture(scope="session")
def user_of_kafka(
    engine: Callable[[str], RunningEngine],
) -> Callable[[str, Iterable[Right]], KafkaAccess]:
    """Makes a user of the secured Kafka with some rights, and says how it gets in."""

    def make(name: str, rights: Iterable[Right]) -> KafkaAccess:
        everything = secured_kafka.access(engine("secured-kafka"))
        admin, password = AdminClient(everything.librdkafka()), secrets.token_urlsafe(16)
        credential = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4_096)
        user = UserScramCredentialUpsertion(name, credential, password.encode())
        bindings = [
            AclBinding(
                RESOURCES[right.resource],
                right.prefix,
                ResourcePatternType.PREFIXED,
                f"User:{name}",
                "*",
                AclOperation[right.operation.upper()],
                AclPermissionType.ALLOW,
            )
            for right in rights
        ]
        made = admin.alter_user_scram_credentials([user]), admin.create_acls(bindings)
        for each in made:
            for future in each.values():
                future.result(10)
        return replace(everything, user=name, password=password)

    return make


@pytest.fixture(scope="session")
def user_with_rights(
    user_of_kafka: Callable[[str, Iterable[Right]], KafkaAccess],
) -> Callable[[str], KafkaAccess]:
    """Makes a user that may do what an application needs, and nothing else."""
    return lambda application: user_of_kafka(application, needed(application))
