"""Several gateways with the same names: one of them orders, all of them prove and serve."""

import threading
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from directory import directory
from keeping import SOON, kept, until
from structlog.testing import capture_logs

from counterfoil.coordination import Client, EtcdClient
from counterfoil.engines import RunningEngine
from counterfoil.gateway.acme.errors import Superseded
from counterfoil.gateway.acme.pairs import Pair
from counterfoil.gateway.acme.shared import SharedStore
from counterfoil.gateway.acme.store import Record

NAME = "shop.example"


@pytest.fixture
def client(engine: Callable[[str], RunningEngine]) -> Client:
    """Of a store that is empty."""
    return EtcdClient(engine("etcd").address, uuid.uuid4().hex)


def test_one_orders_and_another_which_the_directory_looks_at_proves(
    client: Client, tmp_path: Path
) -> None:
    with directory(tmp_path / "pebble") as pebble:
        pebble.kill()
        settings = pebble.settings(NAME)
        with kept(tmp_path / "one", 0, settings, store=SharedStore(client), pace=SOON) as one:
            one.await_trouble(NAME)  # so it is this one's turn
            with kept(
                tmp_path / "two", pebble.port, settings, store=SharedStore(client), pace=SOON
            ) as two:
                until(lambda: len(client.range("/acme-gateways/")) == 2)
                pebble.start()
                made = two.await_issued(NAME)
                until(lambda: one.certificate(NAME) == made)
                assert pebble.log().count('Added order "') == 1
                assert not client.range("/acme/challenges/"), "a proof is taken back"
                # The one that ordered ends: the other one's turn has come.
                one.keeper.stop()
                two.keeper.use(pebble.settings(NAME, "pay.example"))
                two.await_issued("pay.example")


def test_what_a_paused_gateway_still_wants_to_write_is_refused(client: Client) -> None:
    paused, other = SharedStore(client), SharedStore(client)
    seen = paused.keep(NAME, Record(trouble="first"), None)
    other.keep(NAME, Record(trouble="other"), other.load().held[NAME])
    with pytest.raises(Superseded):
        paused.keep(NAME, Record(trouble="late"), seen)
    with pytest.raises(Superseded):
        paused.keep(NAME, Record(trouble="new"), None)
    assert other.load().held[NAME].record.trouble == "other"


def test_a_gateway_that_shows_nothing_is_not_waited_for_without_an_end(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("counterfoil.gateway.acme.shared.SHOWN_SECONDS", 0.2)
    client.put("/acme-gateways/stuck", "0")
    with capture_logs() as logs, SharedStore(client).shown(NAME, Pair("certificate", "key")):
        assert [key.key for key in client.range("/acme/")] == [f"/acme/challenges/{NAME}"]
    assert [each["event"] for each in logs] == ["acme_proof_not_everywhere"]
    assert not client.range("/acme/")


def test_who_waits_for_its_turn_can_be_stopped(client: Client) -> None:
    leading, waiting = SharedStore(client), SharedStore(client)
    stop = threading.Event()
    term = leading.campaign(stop)
    assert term is not None
    threading.Timer(0.1, stop.set).start()
    assert waiting.campaign(stop) is None
    term.resign()
