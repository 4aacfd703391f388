"""Both engines of events: what holds on one must hold on the other.

What is marked `secured` is tried on a third as well: a Kafka that asks for TLS and a password, as a
user that may do just what the documentation says it needs.
"""

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from counterfoil.engines import RunningEngine
from counterfoil.events import Database, EmbeddedEvents, Events, KafkaEvents
from counterfoil.kafka_access import KafkaAccess

MakeEvents = Callable[[], Events]


class Remembering(KafkaEvents):
    """Closes at the end of a test what the test has opened: a server has few connections."""

    def __init__(self, kafka: KafkaAccess, application: str, postgres: RunningEngine) -> None:
        super().__init__(kafka, postgres.address, postgres.secret, application=application)
        self._opened: list[Database] = []

    def service(self, name: str) -> Database:
        """Opens a database."""
        self._opened.append(super().service(name))
        return self._opened[-1]

    def close(self) -> None:
        """Closes them all."""
        for each in self._opened:
            each.close()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The engines that a test is tried on."""
    if "make_events" in metafunc.fixturenames:
        secured = ["secured-kafka"] * any(metafunc.definition.iter_markers("secured"))
        metafunc.parametrize("make_events", ["embedded", "kafka", *secured], indirect=True)


@pytest.fixture
def make_events(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    engine: Callable[[str], RunningEngine],
    user_with_rights: Callable[[str], KafkaAccess],
) -> Iterator[MakeEvents]:
    """Makes the events of a new application."""
    if request.param == "embedded":
        yield lambda: EmbeddedEvents(tmp_path_factory.mktemp("events"))
        return
    made: list[Remembering] = []

    def make() -> Events:
        application = f"test-{uuid.uuid4().hex}"
        if request.param == "kafka":
            access = KafkaAccess(engine("kafka").address)
        else:
            access = user_with_rights(application)
        made.append(Remembering(access, application, engine("postgres")))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def events(make_events: MakeEvents) -> Events:
    """The events of an application of its own."""
    return make_events()


@pytest.fixture
def embedded(tmp_path: Path) -> EmbeddedEvents:
    """The embedded engine alone."""
    return EmbeddedEvents(tmp_path)
