"""The shop, unchanged, on the real engines: it holds under faults, every seeded bug is caught."""

import asyncio
from pathlib import Path

import pytest

from counterfoil.faults import SABOTAGES
from counterfoil.proof.prove import Verdict, prove

SHOP = Path(__file__).parents[2] / "examples" / "shop"
EVERY = "events=kafka,reports=spark,coordination=etcd,limits=redis"


def run(state: Path, engines: str, **arguments: object) -> Verdict:
    given = {"seed": 2, "actions": ["kill", "pause"], **arguments}
    return asyncio.run(prove(SHOP, state, engines=engines, **given))  # type: ignore[arg-type]


@pytest.mark.parametrize(("engines", "purchases"), [("events=kafka", 1_000), (EVERY, 300)])
def test_every_purchase_arrives_once_while_engines_and_processes_die(
    tmp_path: Path, engines: str, purchases: int
) -> None:
    verdict = run(tmp_path / "state", engines, purchases=purchases)
    assert verdict.differences == []
    assert verdict.verdict == "holds"
    assert verdict.acknowledged == verdict.ledger == verdict.lake == verdict.report == purchases
    assert sum(verdict.faults.values()) > 10
    chosen = dict(each.split("=") for each in engines.split(","))
    assert verdict.engines.items() >= chosen.items()


@pytest.mark.parametrize("sabotage", SABOTAGES)
def test_a_seeded_bug_is_caught_on_kafka(tmp_path: Path, sabotage: str) -> None:
    verdict = run(tmp_path / "state", "events=kafka", purchases=1_500, sabotage=sabotage)
    assert verdict.verdict == "fails"
    assert verdict.differences, "a failing verdict names what differs"


def test_an_engine_that_was_away_loses_nothing_and_nothing_is_restarted(tmp_path: Path) -> None:
    verdict = run(
        tmp_path / "state",
        "events=kafka,coordination=etcd,limits=redis",
        purchases=1_000,
        actions=["outage"],
        outage_seconds=4.0,
    )
    assert verdict.verdict == "holds"
    assert {each.engine for each in verdict.outages} == {"kafka", "postgres", "etcd", "redis"}
    for outage in verdict.outages:
        assert outage.recovery_seconds is not None, outage
        assert outage.restarted == [], outage
    assert verdict.refusals["number"] > 0
    assert verdict.refusals["without_retry_after"] == 0


@pytest.mark.timeout(600)
def test_reports_go_on_after_spark_was_away(tmp_path: Path) -> None:
    verdict = run(
        tmp_path / "state",
        "reports=spark",
        purchases=60,
        actions=["outage"],
        outage_seconds=2.0,
    )
    assert verdict.differences == []
    assert verdict.verdict == "holds"
    assert verdict.lake == verdict.report == 60
    (outage,) = verdict.outages
    assert outage.engine == "spark"
    assert outage.restarted == [], "the drivers wait for the master, which comes back"
