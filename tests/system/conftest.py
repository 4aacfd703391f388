"""The reference shop, running whole on free ports."""

from collections.abc import Iterator

import pytest
from running import SHOP, RunningShop, running


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningShop]:
    """A shop that is up for the whole session; tests may send to it, but not break it."""
    with running(SHOP, tmp_path_factory.mktemp("shop") / "state") as shop:
        yield shop
