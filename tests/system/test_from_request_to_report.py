"""The whole way on real processes: it holds under faults, and every seeded bug is caught."""

import asyncio
from pathlib import Path

import pytest

from counterfoil.application import StateFolder, load, load_application
from counterfoil.events import EmbeddedEvents
from counterfoil.faults import SABOTAGES
from counterfoil.proof.prove import Verdict, prove
from counterfoil.proof.stores import EmbeddedStores
from counterfoil.proof.trace import trace

SHOP = Path(__file__).parents[2] / "examples" / "shop"


def run(state: Path, **arguments: object) -> Verdict:
    return asyncio.run(prove(SHOP, state, seed=2, actions=["kill", "pause"], **arguments))  # type: ignore[arg-type]


def test_every_purchase_arrives_once_while_processes_die(tmp_path: Path) -> None:
    verdict = run(tmp_path / "state", purchases=1_000)
    assert verdict.differences == []
    assert verdict.verdict == "holds"
    assert verdict.acknowledged == verdict.ledger == verdict.lake == verdict.report == 1_000
    assert sum(verdict.faults.values()) > 10
    application = load_application(SHOP, load(SHOP).application.module)
    state = StateFolder(tmp_path / "state")
    log = EmbeddedEvents(state.root).log()
    names = [step.name for step in trace(application, EmbeddedStores(state), log, "2-0")]
    assert names[0] == "request"
    assert names[-6:] == ["row", "outbox", "log", "ledger", "lake", "report"]


@pytest.mark.parametrize("sabotage", SABOTAGES)
def test_a_seeded_bug_is_caught(tmp_path: Path, sabotage: str) -> None:
    verdict = run(tmp_path / "state", purchases=1_500, sabotage=sabotage)
    assert verdict.verdict == "fails"
    assert verdict.differences, "a failing verdict names what differs"
