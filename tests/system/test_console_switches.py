"""The console's switches: a real data plane, and a console without a supervisor around it."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from asking import ConsoleClient
from running import SHOP

from counterfoil.application import StateFolder, load
from counterfoil.application.state import write_json
from counterfoil.engines import free_port
from counterfoil.gateway.data_plane import DataPlane
from counterfoil.supervisor.plan import Addresses

FILE = """
[application]
module = "shop:app"

[services.payments]
instances = 1

[gateway]
listen = "127.0.0.1:%d"
admin = "127.0.0.1:%d"
tls = "off"

[gateway.limits.tenant]
key = "address"
rate = 20000
burst = 20000

[gateway.signing_keys.depot]
secret_file = "depot.key"
tenant = "aurora"

[[gateway.routes]]
path = "/payments"
methods = ["GET"]
service = "payments"
identity = false
limits = ["tenant"]

[gateway.routes.cache]
"""
HOLD = {"service": "payments", "instance": "payments-1", "mode": "open"}
SECRET = "x" * 40
ACTS = {
    "drain": {"on": True},
    "breakers": HOLD,
    "purge": {"urls": ["/payments"]},
    "reload": {"digest": ""},
}


class Desk(ConsoleClient):
    """A console before a gateway of its own."""

    def __init__(self, folder: Path, *, read_only: bool = False, away: bool = False) -> None:
        state = StateFolder(folder / "state")
        gateway = load(folder).gateway
        admin = f"127.0.0.1:{free_port()}" if away else gateway.admin
        addresses = Addresses("", gateway.listen, admin, "")
        super().__init__(folder, state.root, read_only=read_only, addresses=addresses)
        write_json(state.run, {"processes": []})
        self.file = folder / "counterfoil.toml"
        self.plane = DataPlane(gateway, access_log=None, admin_credential=self.key, folder=folder)
        self.plane.set_endpoints("payments", [("payments-1", f"127.0.0.1:{free_port()}")])

    def act(self, name: str, body: object = None, **headers: str) -> httpx2.Response:
        answer = self.post(f"/api/gateway/{name}", body or ACTS[name], **headers)
        assert SECRET not in answer.text
        return answer

    def dry_run(self) -> dict[str, Any]:
        found = self.get("/api/gateway/reload")
        assert SECRET not in str(found)
        return found

    def change(self, old: str, new: str) -> None:
        text = self.file.read_text()
        assert old in text
        self.file.write_text(text.replace(old, new))


Opened = Callable[..., Desk]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opened]:
    """Opens a desk; its gateway ends with the test."""
    desks: list[Desk] = []

    def open_desk(**how: bool) -> Desk:
        shutil.copy(SHOP / "shop.py", tmp_path)
        (tmp_path / "depot.key").write_text(SECRET)
        (tmp_path / "counterfoil.toml").write_text(FILE % (free_port(), free_port()))
        desks.append(Desk(tmp_path, **how))
        return desks[-1]

    yield open_desk
    for desk in desks:
        desk.plane.drain(0)


@pytest.fixture
def desk(opened: Opened) -> Desk:
    return opened()


def test_a_breaker_is_held_and_let_go(desk: Desk) -> None:
    def breaker() -> tuple[str, bool]:
        (endpoint,) = desk.get("/api/gateway")["services"][0]["endpoints"]
        return endpoint["breaker"], endpoint["breaker_held"]

    assert breaker() == ("closed", False)
    assert desk.act("breakers").status_code == 204
    assert breaker() == ("open", True)
    assert desk.act("breakers", {**HOLD, "mode": "auto"}).status_code == 204
    assert breaker() == ("closed", False)
    unknown = desk.act("breakers", {**HOLD, "instance": "payments-9"})
    assert unknown.status_code == 422
    assert "payments-9" in unknown.json()["detail"]
    assert desk.act("breakers", {**HOLD, "mode": "ajar"}).status_code == 400


def test_stored_answers_are_purged_by_address_and_tag(desk: Desk) -> None:
    purged = desk.act("purge", {"urls": ["/payments?page=2"], "tags": ["a", "b"]})
    assert purged.json() == {"urls": 1, "tags": 2, "soft": False}
    wrong = desk.act("purge", {"urls": ["payments"]})
    assert wrong.status_code == 422
    assert "is no address such as" in wrong.json()["detail"]
    assert desk.act("purge", {"soft": True}).status_code == 422, "nothing is named"
    assert desk.act("purge", {"urls": ["/"] * 1_001}).status_code == 400


def test_a_drain_lets_nobody_new_in_and_is_shown(desk: Desk) -> None:
    assert desk.act("drain").status_code == 204
    assert desk.get("/api/gateway")["draining"]
    back = desk.act("drain", {"on": False})
    assert back.status_code == 503, "no supervisor runs this one, so none would start it anew"
    assert "no gateway runs" in back.json()["detail"]


def test_a_dry_run_tells_what_a_reload_would_change(desk: Desk) -> None:
    assert desk.dry_run()["outcome"] == "nothing"
    desk.change("rate = 20000", "rate = 10000")
    desk.change('methods = ["GET"]', 'methods = ["GET", "HEAD"]')
    found = desk.dry_run()
    assert (found["outcome"], found["problem"]) == ("changes", "")
    assert {each["setting"]: (each["before"], each["after"]) for each in found["changes"]} == {
        "limits.tenant.rate": ("20000.0", "10000.0"),
        "routes[/payments].methods": ('["GET"]', '["GET","HEAD"]'),
    }
    assert desk.get("/api/gateway")["configuration"]["version"] == 1, "only looked at"
    desk.change("rate = 10000", "rate = 5")
    late = desk.act("reload", {"digest": found["digest"]})
    assert late.status_code == 409
    assert "check it again" in late.json()["detail"]


def test_a_dry_run_tells_why_a_reload_would_be_refused(desk: Desk) -> None:
    desk.change('tls = "off"', 'tls = "off"\nthreads = 3')
    settled = desk.dry_run()
    assert settled["outcome"] == "refused"
    assert settled["problem"] == "threads can't change while the gateway runs: start it again"
    assert [each["needs_start"] for each in settled["changes"]] == [True]
    desk.change("rate = 20000", "rate = -1")
    wrong = desk.dry_run()
    assert (wrong["outcome"], wrong["changes"]) == ("refused", [])
    assert "counterfoil.toml, line" in wrong["problem"]


def test_only_the_operators_own_page_may_act(desk: Desk) -> None:
    for name in ACTS:
        assert desk.act(name, origin="http://127.0.0.1:1").status_code == 403
        desk.send(
            "GET", f"/api/gateway/{name}"
        )  # a link or an image of another page can do no more
    desk.leave()
    for name in ACTS:
        assert desk.act(name).status_code == 401
    assert desk.send("GET", "/api/gateway/reload").status_code == 401
    state = desk.plane.state()
    assert not state["draining"]
    assert not state["services"]["payments"]["endpoints"][0]["breaker_held"]


def test_a_console_that_is_read_only_looks_and_does_nothing(opened: Opened) -> None:
    desk = opened(read_only=True)
    for name in ACTS:
        assert desk.act(name).status_code == 403
    assert not desk.plane.state()["draining"]
    assert desk.dry_run()["outcome"] == "nothing"


def test_a_gateway_that_is_away_is_said_to_be(opened: Opened) -> None:
    desk = opened(away=True)
    for answer in (
        *(desk.send("GET", path) for path in ("/api/gateway", "/api/gateway/reload")),
        *map(desk.act, ("drain", "breakers", "purge", "reload")),
    ):
        assert answer.status_code == 503
        assert "counterfoil status" in answer.json()["detail"]
    assert desk.plane.state()["draining"] is False
