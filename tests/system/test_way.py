"""The console's look at the way outlives a store that can't be read yet."""

import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from counterfoil.application import StateFolder, load, load_application
from counterfoil.console import way as console_way
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
    way = Way(counterfoils, EmbeddedStores(state))
    with way.looking():
        with capture_logs() as lines:
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


def test_what_was_equal_is_unknown_while_nobody_can_look_and_no_loss_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console_way, "LATE_SECONDS", 0.5)
    monkeypatch.setattr(console_way, "STUCK_SECONDS", 2.0)
    counterfoils = load_application(SHOP, load(SHOP).application.module).counterfoils
    assert counterfoils is not None
    state = StateFolder(tmp_path)
    service = sqlite3.connect(state.service("payments"), isolation_level=None)
    service.execute("CREATE TABLE payments (amount INTEGER)")
    way = Way(counterfoils, EmbeddedStores(state))

    def wait_for(wanted: str) -> dict[str, Any]:
        deadline = time.monotonic() + 20
        while (found := way.document())["state"] != wanted:
            assert time.monotonic() < deadline, found
            time.sleep(0.05)
        return found

    assert way.document()["state"] == "unknown", "nobody has looked yet"
    with way.looking():
        assert wait_for("equal")["matches"]
        service.execute("INSERT INTO payments VALUES (5)")
        wait_for("under way")
        service.execute("ALTER TABLE payments RENAME TO elsewhere")
        unknown = wait_for("unknown")
        assert "payments" in unknown["trouble"]
        assert unknown["looked_seconds_ago"] > 0.5
        blind = time.monotonic()
        while time.monotonic() < blind + console_way.STUCK_SECONDS:
            assert way.document()["state"] == "unknown"
            time.sleep(0.1)
        service.execute("ALTER TABLE elsewhere RENAME TO payments")
        while (seen := way.document()["state"]) == "unknown":
            time.sleep(0.05)
        assert seen == "under way", "it has not stood still for longer: nobody looked"
        assert way.document()["trouble"] == ""
        wait_for("broken")
    service.close()


def test_an_application_that_matches_nothing_has_a_document_of_the_same_shape() -> None:
    history = NOTHING["history"]
    assert isinstance(history, dict)
    assert set(history) == {"seconds", "accepted", "posted", "stored", "reported"}
    assert NOTHING["way"] == []
