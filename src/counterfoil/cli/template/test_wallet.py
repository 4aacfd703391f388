"""Every transfer arrives once while processes die, and a proof that could not fail is none."""

from pathlib import Path

from wallet import TransferRequest, app

from counterfoil.testing import Rehearsal, prove

HERE = Path(__file__).parent


def test_a_transfer_moves_money_once() -> None:
    with Rehearsal(app) as rehearsal:  # in this process alone: milliseconds
        request = TransferRequest("ada", "bob", 500, "EUR")
        for _ in range(2):
            assert rehearsal.post("/transfers", request, idempotency_key="1").status_code == 201
        rehearsal.crash("pipeline.before-commit")
        rehearsal.run()
        assert rehearsal.balance("bob", "EUR") == 500
        assert rehearsal.get("/balances/bob").json() == {"person": "bob", "cents": 500}


def test_every_transfer_arrives_once(tmp_path: Path) -> None:
    verdict = prove(HERE, tmp_path / "state", requests=300, fault_number=8)
    assert verdict.differences == []
    assert verdict.report == verdict.ledger == verdict.acknowledged == 300


def test_a_service_that_forgets_its_answers_is_caught(tmp_path: Path) -> None:
    verdict = prove(HERE, tmp_path / "state", requests=300, sabotage="idempotency-off")
    assert verdict.verdict == "fails"
