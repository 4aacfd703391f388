"""Both engines of events: what holds on one must hold on the other."""

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from counterfoil.engines import RunningEngine
from counterfoil.events import Database, EmbeddedEvents, Events, KafkaEvents

MakeEvents = Callable[[], Events]


class Remembering(KafkaEvents):
    """Closes at the end of a test what the test has opened: a server has few connections."""

    def __init__(self, kafka: RunningEngine, postgres: RunningEngine) -> None:
        application = f"test-{uuid.uuid4().hex}"
        super().__init__(kafka.address, postgres.address, postgres.secret, application=application)
        self._opened: list[Database] = []

    def service(self, name: str) -> Database:
        """Opens a database."""
        self._opened.append(super().service(name))
        return self._opened[-1]

    def close(self) -> None:
        """Closes them all."""
        for each in self._opened:
            each.close()


@pytest.fixture(params=["embedded", "kafka"])
def make_events(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    engine: Callable[[str], RunningEngine],
) -> Iterator[MakeEvents]:
    """Makes the events of a new application."""
    if request.param == "embedded":
        yield lambda: EmbeddedEvents(tmp_path_factory.mktemp("events"))
        return
    made: list[Remembering] = []

    def make() -> Events:
        made.append(Remembering(engine("kafka"), engine("postgres")))
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
