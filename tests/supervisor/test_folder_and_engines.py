"""A state folder and a configuration that name different engines: nobody looks where nothing is."""

import shutil
import subprocess
from pathlib import Path

import msgspec
import pytest

from counterfoil.application import EnginesConfig, StateFolder, load, load_application
from counterfoil.application.state import write_json
from counterfoil.cli import main
from counterfoil.cli.engines import exported
from counterfoil.supervisor import EngineRefused, hold_to, last_configuration, write_engines
from counterfoil.supervisor.engines import check_clients
from counterfoil.supervisor.plan import assign_addresses, configured_engines, plan

SHOP = Path(__file__).parents[2] / "examples" / "shop"
NOWHERE = dict.fromkeys(("coordination", "gateway", "admin", "console"), "")
ON_KAFKA = EnginesConfig(events="kafka", coordination="etcd")


def shop_with(folder: Path, lines: str) -> Path:
    """A copy of the shop whose file says this at its end, and nothing else of engines."""
    shop = folder / "shop"
    shutil.copytree(SHOP, shop, ignore=shutil.ignore_patterns(".counterfoil"))
    file = shop / "counterfoil.toml"
    before, _, after = file.read_text().partition("[engines]\n")
    rest = after[after.index("\n[") :] if after else ""
    file.write_text(f"{before}{rest}\n{lines}")
    return shop


@pytest.mark.parametrize(
    "command", [["dlq", "list"], ["dlq", "replay", "all"], ["lag"], ["read", "payments"]]
)
@pytest.mark.parametrize(
    ("held", "written", "said"),
    [
        (EnginesConfig(), 'events = "kafka"', "holds events on embedded, not on kafka"),
        (ON_KAFKA, 'coordination = "etcd"', "holds events on kafka, not on embedded"),
    ],
)
def test_a_command_doesnt_look_where_the_data_is_not(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    command: list[str],
    held: EnginesConfig,
    written: str,
    said: str,
) -> None:
    state, shop = StateFolder(tmp_path), shop_with(tmp_path, f"[engines]\n{written}\n")
    write_json(state.addresses, NOWHERE)
    write_engines(state, held)
    with pytest.raises(SystemExit) as ended:
        main(["events", *command, str(shop), "--state", str(tmp_path)])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_one_move_is_asked_for_where_several_parts_differ(tmp_path: Path) -> None:
    state = StateFolder(tmp_path)
    write_engines(state, EnginesConfig())
    with pytest.raises(EngineRefused, match="--engines events=kafka,coordination=etcd`"):
        hold_to(state, ON_KAFKA)


def test_servers_of_its_own_take_the_place_of_those_with_an_address(tmp_path: Path) -> None:
    addresses = 'kafka = "127.0.0.1:1"\npostgres = "postgresql://127.0.0.1:1/x"\netcd = "http://127.0.0.1:1"'
    engines = '[engines]\nevents = "kafka"\ncoordination = "etcd"'
    shop = shop_with(tmp_path, f"{engines}\n\n[addresses]\n{addresses}\n")
    assert set(configured_engines(load(shop))) == {"kafka", "postgres", "etcd"}
    own = load(shop, own_servers=True)
    assert configured_engines(own) == {}
    processes = plan(load_application(shop, "shop:app"), own)
    assert {each.engine for each in processes} >= {"kafka", "postgres", "etcd"}
    assert assign_addresses(own, processes, free_ports=True, own_servers=True).own_servers
    embedded = load(SHOP, own_servers=True)
    processes = plan(load_application(SHOP, "shop:app"), embedded)
    found = assign_addresses(embedded, processes, free_ports=True, own_servers=True)
    assert not found.own_servers, "what is embedded may move to those that are named"

    state = StateFolder(tmp_path)
    write_json(state.addresses, {**NOWHERE, "own_servers": True})
    write_engines(state, own.engines)
    assert configured_engines(last_configuration(shop, state)) == {}, "a look later is at the same"


@pytest.mark.parametrize(("free_ports", "host"), [(False, "[::1]"), (True, "127.0.0.1")])
def test_the_gateway_listens_on_ipv6_and_a_run_on_free_ports_on_loopback(
    free_ports: bool, host: str
) -> None:
    shop = load(SHOP)
    replaced = msgspec.structs.replace
    gateway = replaced(shop.gateway, listen="[::1]:0", admin="[::1]:0")
    anywhere = replaced(
        shop,
        gateway=gateway,
        coordination=replaced(shop.coordination, listen="127.0.0.1:0"),
        console=replaced(shop.console, listen="127.0.0.1:0"),
        issuer=None,
    )
    processes = plan(load_application(SHOP, "shop:app"), shop)
    found = assign_addresses(anywhere, processes, free_ports=free_ports)
    assert {each.rpartition(":")[0] for each in (found.gateway, found.admin)} == {host}


def test_the_line_that_exports_passwords_sets_both_in_a_new_shell(tmp_path: Path) -> None:
    secret = tmp_path / "a folder" / "credential"
    secret.parent.mkdir()
    secret.write_text("open sesame")
    shown = 'echo "$PGPASSWORD,$REDIS_PASSWORD"'
    done = subprocess.run(
        ["sh", "-c", f"{exported(secret)}\n{shown}"],
        check=True,
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", "PGPASSWORD": "before"},
    )
    assert done.stdout == "open sesame,open sesame\n"


@pytest.mark.parametrize(
    ("chosen", "module", "extra"),
    [
        (EnginesConfig(events="kafka"), "confluent_kafka", "kafka"),
        (EnginesConfig(events="kafka"), "psycopg", "kafka"),
        (EnginesConfig(reports="spark"), "pyspark", "spark"),
        (EnginesConfig(schemas="registry"), "confluent_kafka", "registry"),
    ],
)
def test_an_engine_whose_client_is_not_installed_is_refused_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, chosen: EnginesConfig, module: str, extra: str
) -> None:
    def find_spec(name: str) -> object | None:
        return None if name == module else object()

    monkeypatch.setattr("importlib.util.find_spec", find_spec)
    configuration = msgspec.structs.replace(load(SHOP, engines=""), engines=chosen)
    with pytest.raises(EngineRefused, match=rf"needs the package {module}\n.*\[{extra}\]"):
        check_clients(configuration)
    check_clients(msgspec.structs.replace(configuration, engines=EnginesConfig()))
