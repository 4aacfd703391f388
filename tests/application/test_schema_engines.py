"""Where an application's schemas are kept, and that events never come to name those of others."""

import asyncio
from pathlib import Path

import msgspec
import pytest

from counterfoil.application import (
    Application,
    Configuration,
    ConfigurationError,
    Counterfoils,
    EnginesConfig,
    StateFolder,
    load,
)
from counterfoil.events import EmbeddedEvents, EmbeddedRegistry, EventsError
from counterfoil.events.schemas import OneAtATime
from counterfoil.reports import Report, Table
from counterfoil.supervisor import EngineRefused, Supervisor, open_events, write_engines
from counterfoil.supervisor.engines import check_data
from counterfoil.supervisor.plan import Addresses, plan, real_engines

REGISTRY = "http://127.0.0.1:1"
ADDRESSES = Addresses("", "", "", "", engines={"registry": REGISTRY})


class Sale(msgspec.Struct):
    id: int
    amount: int
    day: str


def configured(folder: Path, more: str) -> Configuration:
    text = f'[application]\nmodule = "shop:app"\n[services.shop]\n{more}\n'
    (folder / "counterfoil.toml").write_text(text)
    return load(folder)


def application() -> Application:
    app = Application("shop")
    app.service("shop", schema=[])
    app.topic("sales", Sale, format="avro")
    return app


def test_schemas_are_embedded_unless_a_registry_is_chosen(tmp_path: Path) -> None:
    state = StateFolder(tmp_path)
    embedded = configured(tmp_path, "")
    assert real_engines(embedded) == []
    events = open_events("shop", embedded, state, ADDRESSES)
    assert isinstance(events.registry, EmbeddedRegistry)
    chosen = configured(tmp_path, '[engines]\nschemas = "registry"')
    assert isinstance(open_events("shop", chosen, state, ADDRESSES).registry, OneAtATime)


def test_a_registry_without_an_address_is_started_first(tmp_path: Path) -> None:
    started = plan(application(), configured(tmp_path, '[engines]\nschemas = "registry"'))
    assert (started[0].name, started[0].foundation) == ("registry", True)
    theirs = f'[engines]\nschemas = "registry"\n[addresses]\nregistry = "{REGISTRY}"'
    assert "registry" not in {
        each.name for each in plan(application(), configured(tmp_path, theirs))
    }


def test_events_that_name_embedded_schemas_keep_a_registry_from_being_chosen(
    tmp_path: Path,
) -> None:
    app, state = application(), StateFolder(tmp_path)
    check_data(app, configured(tmp_path, ""), state, ADDRESSES)
    chosen = configured(tmp_path, '[engines]\nschemas = "registry"')
    with pytest.raises(EventsError, match="under ids of their own"):
        check_data(app, chosen, state, ADDRESSES)


def test_a_log_without_schemas_may_go_over_to_a_registry(tmp_path: Path) -> None:
    app = Application("shop")
    app.topic("sales", Sale)
    EmbeddedEvents(tmp_path).log().declare(app.all_topics())
    chosen = configured(tmp_path, '[engines]\nschemas = "registry"')
    check_data(app, chosen, StateFolder(tmp_path), ADDRESSES)  # JSON asks no registry


def test_events_that_name_a_registrys_schemas_are_not_started_without_it(tmp_path: Path) -> None:
    configured(tmp_path, "")
    (tmp_path / "sold.py").write_text(
        "from counterfoil import Application\n"
        "app = Application('sold')\napp.service('shop', schema=[])\n"
    )
    text = (tmp_path / "counterfoil.toml").read_text().replace("shop:app", "sold:app")
    (tmp_path / "counterfoil.toml").write_text(text)
    state = tmp_path / "state"
    state.mkdir()
    write_engines(StateFolder(state), EnginesConfig(schemas="registry"))
    with pytest.raises(EngineRefused, match="schemas are in a registry"):
        asyncio.run(Supervisor(tmp_path, state, free_ports=True).run())


def test_what_the_proof_compares_has_to_be_json() -> None:
    app = application()
    table = Table("sales", Sale)
    report = Report("days", table, {"days": "SELECT day FROM sales"}, title="Days")
    with pytest.raises(ConfigurationError, match="sales is in avro"):
        app.matches(
            Counterfoils(
                "shop", "sales", app.topics["sales"], "sale", table, report, "days", "", ""
            )
        )
