"""Both engines of reports, in this process."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sales import driver

from counterfoil.reports import Embedded, Engine
from counterfoil.reports.spark import Spark


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spark]:
    """Spark on two threads of this machine; a JVM starts once for all tests."""
    started = driver(tmp_path_factory.mktemp("spark"))
    yield Spark(started)
    started.close()


@pytest.fixture(params=["embedded", "spark"])
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def one(name: str, request: pytest.FixtureRequest) -> Engine:
    """Each engine in turn."""
    return Embedded() if name == "embedded" else request.getfixturevalue("spark")


@pytest.fixture
def other(name: str, request: pytest.FixtureRequest) -> Engine:
    """The one that `one` is not."""
    return Embedded() if name == "spark" else request.getfixturevalue("spark")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With a space and a percent sign, as folders may have."""
    path = tmp_path / "a folder"
    path.mkdir()
    return path
