"""The console's look at the way outlives a store that can't be read yet."""

import sqlite3
import time
from pathlib import Path

from structlog.testing import capture_logs

from counterfoil.application import StateFolder, load, load_application
from counterfoil.console.way import NOTHING, Way
from counterfoil.proof.stores import EmbeddedStores

SHOP = Path(__file__).parents[2] / "examples" / "shop"


def test_the_look_goes_on_after_a_table_that_is_not_there_yet(tmp_path: Path) -> None:
    counterfoils = load_application(SHOP, load(SHOP).application.module).counterfoils
    assert counterfoils is not None
    state = StateFolder(tmp_path)
    service = sqlite3.connect(state.service("payments"))
    service.execute("PRAGMA user_version = 1")  # a database without the service's table
    deadline = time.monotonic() + 20
    with capture_logs() as lines:
        way = Way(counterfoils, EmbeddedStores(state))
        while not lines:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    assert lines[0]["event"] == "look_failed"
    service.execute("CREATE TABLE payments (amount INTEGER)")
    service.execute("INSERT INTO payments VALUES (5)")
    service.commit()
    while not (steps := way.document()["way"]):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert isinstance(steps, list)
    assert (steps[0]["count"], steps[0]["amount"]) == (1, 5)
    service.close()


def test_an_application_that_matches_nothing_has_a_document_of_the_same_shape() -> None:
    history = NOTHING["history"]
    assert isinstance(history, dict)
    assert set(history) == {"seconds", "accepted", "posted", "stored", "reported"}
    assert NOTHING["way"] == []
