"""A proof on servers that hold purchases already would count them, and book beside them."""

import asyncio
from pathlib import Path

import pytest
from test_rest import SCHEMA, declare

from counterfoil.application import StateFolder
from counterfoil.events import EmbeddedEvents, create_service
from counterfoil.proof.prove import ProofError, refuse_purchases
from counterfoil.proof.stores import EmbeddedStores


def test_a_proof_is_refused_where_somebody_has_bought(tmp_path: Path) -> None:
    counterfoils = declare("used").counterfoils
    assert counterfoils is not None
    database = EmbeddedEvents(tmp_path).service("stall")
    create_service(database, [SCHEMA], [], int)
    stores = EmbeddedStores(StateFolder(tmp_path))
    asyncio.run(refuse_purchases(counterfoils, stores))  # nobody has
    with database.transaction():
        database.execute("INSERT INTO sales VALUES ('1', '2026-01-01', 5)")
    with pytest.raises(ProofError, match=r"1 sales already") as refused:
        asyncio.run(refuse_purchases(counterfoils, stores))
    assert "--addresses" in refused.value.hint
