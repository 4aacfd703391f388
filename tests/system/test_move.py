"""A shop's data moves from the embedded engines to the real ones, and the shop goes on there.

Its Kafka is one that asks for TLS and a password, and allows its user what the documentation says.
"""

import asyncio
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from running import kafka_settings

from counterfoil.application import StateFolder, load, load_application
from counterfoil.events import lag
from counterfoil.kafka_access import KafkaAccess
from counterfoil.move import MoveError, move
from counterfoil.proof.prove import prove
from counterfoil.proof.reconcile import Sum, ledger_transfers, service_rows
from counterfoil.proof.stores import open_stores
from counterfoil.supervisor import EngineRefused, Supervisor, open_events

SHOP = Path(__file__).parents[2] / "examples" / "shop"
COUNTERFOIL = str(Path(sys.executable).with_name("counterfoil"))
ENGINES = "events=kafka,coordination=etcd"


async def started(shop: Path, state: Path, engines: str) -> Supervisor:
    """Start the shop, and stop it again."""
    supervisor = Supervisor(shop, state, free_ports=True, engines=engines)
    running = asyncio.create_task(supervisor.run())
    try:
        await supervisor.started(running)
        addresses = supervisor.addresses
        assert addresses is not None
        configuration = load(shop, engines=engines)
        events = open_events("shop", configuration, StateFolder(state), addresses)
        behind = await asyncio.to_thread(lambda: lag(events.log(), events.pipelines()))
        assert behind and all(each.lag == 0 for each in behind), "positions are where they were"
        counterfoils = load_application(shop, configuration.application.module).counterfoils
        assert counterfoils is not None
        stores = open_stores("shop", configuration, StateFolder(state))
        rows, _ = await asyncio.to_thread(service_rows, counterfoils, stores)
        posted = await asyncio.to_thread(ledger_transfers, counterfoils, stores)
        assert sorted(rows) == sorted(posted)
        assert len(rows) == 300
    finally:
        supervisor.stop()
        await running
    return supervisor


def test_a_shop_moves_to_the_real_engines_and_goes_on(
    tmp_path: Path,
    user_with_rights: Callable[[str], KafkaAccess],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    state, shop = tmp_path / "state", tmp_path / "shop"
    shutil.copytree(SHOP, shop, ignore=shutil.ignore_patterns(".counterfoil"))
    kafka = user_with_rights("shop")
    monkeypatch.setenv("KAFKA_PASSWORD", kafka.password)
    with (shop / "counterfoil.toml").open("a") as file:
        file.write(f'\n[addresses]\nkafka = "{kafka.servers}"\n{kafka_settings(kafka)}')
    verdict = asyncio.run(prove(shop, state, purchases=300, seed=5, actions=[]))
    assert verdict.verdict == "holds"
    with pytest.raises(EngineRefused, match="holds events on embedded, not on kafka"):
        asyncio.run(started(shop, state, ENGINES))
    told: list[str] = []
    moved = asyncio.run(move(shop, state, ENGINES, told.append))
    assert moved.sums == {name: Sum(300, verdict.revenue) for name in ("accepted", "log", "ledger")}
    assert "topic payments" in told
    asyncio.run(started(shop, state, ENGINES))
    with pytest.raises(EngineRefused, match="holds events on kafka, not on embedded"):
        asyncio.run(started(shop, state, ""))
    with pytest.raises(MoveError, match="events are on kafka"):
        asyncio.run(move(shop, state, "events=embedded", told.append))


def test_where_nothing_has_run_there_is_nothing_to_move(tmp_path: Path) -> None:
    command = [COUNTERFOIL, "move", str(SHOP), "--engines", ENGINES, "--state", str(tmp_path)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode != 0
    assert "nothing has run" in done.stderr
