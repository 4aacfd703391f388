"""Where an effect went, of an application that doesn't say what to look for behind the gateway."""

from pathlib import Path

import msgspec

from counterfoil import Application
from counterfoil.application import StateFolder
from counterfoil.events import EmbeddedEvents
from counterfoil.proof.stores import EmbeddedStores
from counterfoil.proof.trace import trace

STUB = {
    "time_us": 1_700_000_000_000_000,
    "request_id": "r",
    "method": "POST",
    "path": "/orders",
    "status": 201,
    "instance": "shop-1",
    "attempts": 1,
    "effect": "17",
    "idempotency_key": "first",
    "tenant": "acme",
    "duration_us": 1_000,
}


def test_without_what_must_match_a_trace_is_the_gateways_answers(tmp_path: Path) -> None:
    state = StateFolder(tmp_path)
    state.access_log.write_bytes(msgspec.json.encode(STUB) + b"\n")
    stores, log = EmbeddedStores(state), EmbeddedEvents(tmp_path).log()
    application = Application("shop")
    for identity, stations in (("17", ["request"]), ("first", ["request"]), ("18", [])):
        assert [step.name for step in trace(application, stores, log, identity)] == stations
