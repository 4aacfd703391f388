"""What a reload would change, compared with what `GET /config` shows."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from counterfoil.gateway.changes import VALUE_LIMIT, changes
from counterfoil.gateway.config import GatewayConfig, Limit, Route
from counterfoil.gateway.credentials import SigningKey
from counterfoil.gateway.data_plane import GatewayError, document

GET = Route(path="/a", methods=("GET",), service="s", identity=False)
POST = Route(path="/a", methods=("POST",), service="s", identity=False)
CONFIG = GatewayConfig(
    tls="off",
    limits={"tenant": Limit(key="tenant", rate=5.0, burst=5)},
    signing_keys={"depot": SigningKey(secret_file="depot.key", tenant="t")},
    routes=(GET, POST),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "depot.key").write_text("x" * 40)
    return tmp_path


def shown(folder: Path, **surroundings: Any) -> dict[str, Any]:
    """`CONFIG` as the data plane shows it."""
    found = {**document(CONFIG, folder=folder), "certificate": None, **surroundings}
    found["signing_keys"]["depot"]["secret"] = "(hidden)"
    return found


def told(folder: Path, **change: Any) -> dict[str, tuple[str | None, str | None]]:
    config = msgspec.structs.replace(CONFIG, **change)
    found = changes(shown(folder), config, folder=folder)
    return {each.setting: (each.before, each.after) for each in found}


def test_the_same_file_changes_nothing_whatever_is_around_it(folder: Path) -> None:
    around = {"access_log": "/var/log/a", "admin_credential": "(hidden)", "shared_limits": None}
    assert changes(shown(folder, **around), CONFIG, folder=folder) == []


def test_a_setting_is_named_by_its_place_and_routes_by_their_paths(folder: Path) -> None:
    without = told(folder, limits={})
    assert without["limits.tenant.rate"] == ("5.0", None)
    assert without["limits"] == (None, "{}")
    routes = (GET, msgspec.structs.replace(POST, service="other"))
    assert told(folder, routes=routes)["routes[/a, 2].service"] == ('"s"', '"other"')


def test_a_secret_is_told_neither_before_nor_after(folder: Path) -> None:
    before = shown(folder)
    (folder / "depot.key").write_text("y" * 40)
    assert changes(before, CONFIG, folder=folder) == []
    keys = {"billing": SigningKey(secret_file="depot.key", tenant="t")}
    found = told(folder, signing_keys=keys)
    assert found["signing_keys.billing.secret"] == (None, '"(hidden)"')
    assert "yyy" not in str(found)
    (folder / "depot.key").unlink()
    with pytest.raises(GatewayError, match="can't be read"):
        changes(before, CONFIG, folder=folder)


def test_what_a_running_gateway_refuses_is_marked(folder: Path) -> None:
    wanted = msgspec.structs.replace(CONFIG, tls="development", threads=3, tiers=("a", "b"))
    found = changes(shown(folder), wanted, folder=folder)
    assert {each.setting: each.needs_start for each in found} == {
        "threads": True,
        "tiers": False,
        "tls": True,
    }


def test_a_long_value_is_cut(folder: Path) -> None:
    proxies = tuple(f"10.0.{number}.0/24" for number in range(200))
    (_, after) = told(folder, trusted_proxies=proxies)["trusted_proxies"]
    assert after is not None
    assert len(after) == VALUE_LIMIT
