"""The whole way with etcd in place of the embedded node, and etcd itself among the victims."""

import asyncio
import shutil
from pathlib import Path

from counterfoil.application import load
from counterfoil.proof.prove import prove

SHOP = Path(__file__).parents[2] / "examples" / "shop"


def test_every_purchase_arrives_once_while_processes_and_etcd_die(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(SHOP, tmp_path / "shop"))
    file = folder / "counterfoil.toml"
    written = file.read_text().replace('coordination = "embedded"', 'coordination = "etcd"')
    file.write_text(f'{written}\n[addresses]\netcd = "http://127.0.0.1:1"\n')  # not the proof's
    assert load(folder).engines.coordination == "etcd"
    verdict = asyncio.run(
        prove(folder, tmp_path / "state", purchases=1_000, seed=2, actions=["kill", "pause"])
    )
    assert verdict.differences == []
    assert verdict.verdict == "holds"
    assert verdict.acknowledged == verdict.ledger == verdict.lake == verdict.report == 1_000
    assert verdict.faulted["etcd"] > 0
    assert not (tmp_path / "state" / "logs" / "coordination.log").exists()
