"""The real engines, started when a test first asks for one and stopped at the end."""

from collections.abc import Callable, Iterator

import pytest

from counterfoil.engines import RunningEngine, start


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
