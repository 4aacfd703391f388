"""`counterfoil gateway`: a running application's gateway takes a changed file, or says why not."""

import http.client
import json
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx2
import msgspec
import pytest
from running import COUNTERFOIL, SHOP
from structlog.testing import capture_logs

from counterfoil.application import StateFolder
from counterfoil.gateway.config import GatewayConfig, Route
from counterfoil.gateway.data_plane import DataPlane
from counterfoil.supervisor import last_addresses
from counterfoil.supervisor.gateway_process import open_when_known
from counterfoil.supervisor.host import Host

PATIENCE_SECONDS = 30


@dataclass(frozen=True)
class Running:
    """A shop of its own, whose file a test may change."""

    folder: Path
    state: StateFolder

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        given = [COUNTERFOIL, "gateway", *command, str(self.folder)]
        if command[0] != "check":
            given += ["--state", str(self.state.root)]
        return subprocess.run(given, capture_output=True, text=True, timeout=60, check=False)

    def change(self, old: str, new: str) -> None:
        file = self.folder / "counterfoil.toml"
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new))

    def told(self) -> dict[str, Any]:
        """What the gateway says of itself."""
        connection = http.client.HTTPConnection(last_addresses(self.state).admin, timeout=10)
        headers = {"authorization": f"Bearer {self.state.credential()}"}
        connection.request("GET", "/state", headers=headers)
        found = json.loads(connection.getresponse().read())
        connection.close()
        return found

    def limits(self) -> list[str]:
        return [limit["name"] for limit in self.told()["limits"]]


@pytest.fixture(scope="module")
def shop_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    root = tmp_path_factory.mktemp("gateway")
    folder = shutil.copytree(SHOP, root / "shop")
    state = StateFolder(root / "state")
    command = [COUNTERFOIL, "up", str(folder), "--state", str(state.root), "--free-ports"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert any(line.startswith("console  http") for line in process.stdout)
    yield Running(folder, state)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0


@pytest.fixture
def running(shop_of_its_own: Running) -> Running:
    """The shop with the file as it is in the repository; what is in force may be another's."""
    shutil.copy(SHOP / "counterfoil.toml", shop_of_its_own.folder)
    return shop_of_its_own


def test_a_changed_file_comes_into_force_and_a_wrong_one_does_not(running: Running) -> None:
    running.change("[gateway.limits.address]", "[gateway.limits.host]")
    running.change('"address"]', '"host"]')
    assert running.limits() == ["address", "tenant"]
    following = running.told()["configuration"]["version"] + 1
    taken = running.run("reload")
    assert taken.returncode == 0, taken.stderr
    assert taken.stdout.endswith(f"configuration {following} is in force\n")
    assert running.limits() == ["host", "tenant"]

    running.change('listen = "127.0.0.1:8443"', 'listen = "127.0.0.1:9443"')
    refused = running.run("reload")
    assert refused.returncode == 2
    assert "listen can't change while the gateway runs" in refused.stderr

    running.change("rate = 20000", "rate = -1")
    for command in ("check", "reload"):
        wrong = running.run(command)
        assert wrong.returncode == 2
        assert "counterfoil.toml, line" in wrong.stderr
    assert running.limits() == ["host", "tenant"]


def test_the_console_reloads_what_was_looked_at_and_ends_a_drain(running: Running) -> None:
    def until(holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while (answer := console.get("/api/gateway")).is_error or not holds(answer.json()):
            assert time.monotonic() < deadline, answer.text
            time.sleep(0.05)
        return answer.json()

    address = f"http://{last_addresses(running.state).console}"
    with httpx2.Client(base_url=address) as console:
        console.post("/api/session", json={"key": running.state.credential()})
        running.change("burst = 20000", "burst = 10000")
        found = console.get("/api/gateway/reload").json()
        assert "limits.tenant.burst" in [each["setting"] for each in found["changes"]]
        before = running.told()["configuration"]["version"]
        reloaded = console.post("/api/gateway/reload", json={"digest": found["digest"]})
        assert reloaded.json() == {"version": before + 1}
        same = console.get("/api/gateway/reload").json()
        assert (same["outcome"], same["changes"]) == ("nothing", []), "free ports are no change"
        assert console.post("/api/gateway/drain", json={"on": True}).status_code == 204
        until(lambda state: state["draining"])
        assert console.post("/api/gateway/drain", json={"on": False}).status_code == 204
        back = until(lambda state: not state["draining"] and state["services"][0]["endpoints"])
        assert back["configuration"]["version"] == 1, "another process, which has read the file"
        assert running.limits() == ["address", "tenant"]


def test_an_operator_acts_on_the_gateway_from_the_command_line(running: Running) -> None:
    def breakers() -> dict[str, str]:
        endpoints = running.told()["services"]["payments"]["endpoints"]
        return {each["instance"]: each["breaker_reason"] for each in endpoints}

    held = running.run("breaker", "payments-1", "open")
    assert (held.returncode, held.stdout) == (0, "the breaker of payments-1 is held open\n")
    assert breakers()["payments-1"] == "held open by an operator"
    assert running.run("breaker", "payments-1", "auto").returncode == 0
    assert breakers()["payments-1"] != "held open by an operator"
    unknown = running.run("breaker", "payments-9", "open")
    assert (unknown.returncode, "payments-9" in unknown.stderr) == (2, True)
    none = running.run("purge", "--url", "/a")
    assert none.returncode == 2
    assert "no route has a cache" in none.stderr


def test_an_operator_moves_clients_to_another_version_from_the_command_line(
    running: Running,
) -> None:
    running.change("[services.payments]", "[services.payments-next]\n\n[services.payments]")
    weights = 'split = { weights = { payments = 95, payments-next = 5 }, by = "tenant" }'
    running.change('service = "payments"', weights)
    taken = running.run("reload")
    assert taken.returncode == 0, taken.stderr
    moved = running.run("split", "/payments", "--weight", "payments-next=95")
    assert moved.returncode == 0, moved.stderr
    assert moved.stdout.count("(50 %)") == 2
    assert running.run("split", "/payments").stdout == moved.stdout
    assert "(5 %)" in running.run("split", "/payments", "--reset").stdout
    for wrong, said in (
        (("/payments", "--weight", "other=1"), "no route /payments has a split for other"),
        (("/payments", "--weight", "payments"), "'payments' is no weight"),
        (("/other",), "no route /other has a split"),
    ):
        refused = running.run("split", *wrong)
        assert refused.returncode == 2
        assert said in refused.stderr


def test_a_configuration_is_checked_without_anything_running() -> None:
    command = [COUNTERFOIL, "gateway", "check", str(SHOP)]
    checked = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (checked.returncode, "routes: 1, limits: 2" in checked.stdout) == (0, True)


def test_a_key_goes_to_its_holder_and_its_digest_to_the_configuration() -> None:
    command = [COUNTERFOIL, "gateway", "key", "billing", "--tenant", "aurora"]
    made = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert made.stdout.startswith("cf_billing_")
    assert "[gateway.api_keys.billing]\nsha256 = " in made.stderr
    assert made.stdout.strip() not in made.stderr


def test_services_answer_health_checks(running: Running) -> None:
    file = running.folder / "counterfoil.toml"
    checks = '\n[gateway.services.payments.health]\npath = "/healthz"\ninterval_seconds = 0.1\n'
    file.write_text(file.read_text() + checks)
    found = running.run("reload")
    assert found.returncode == 0, found.stderr
    deadline = time.monotonic() + PATIENCE_SECONDS
    while {each["health"] for each in instances(running)} != {"healthy"}:
        assert time.monotonic() < deadline, instances(running)
        time.sleep(0.05)
    assert len(instances(running)) > 1


def instances(running: Running) -> list[dict[str, Any]]:
    return running.told()["services"]["payments"]["endpoints"]


def starting(start_wait_seconds: float) -> tuple[Host, DataPlane]:
    """A gateway that knows no instance of the one service it leads to."""
    gateway = GatewayConfig(
        listen="127.0.0.1:0",
        admin="127.0.0.1:0",
        tls="off",
        start_wait_seconds=start_wait_seconds,
        routes=(Route(path="/a", methods=("GET",), service="s", identity=False),),
    )
    plane = DataPlane(gateway, access_log=None, admin_credential="c", opened=False)
    host = SimpleNamespace(configuration=SimpleNamespace(gateway=gateway), stop=threading.Event())
    return cast("Host", host), plane


def test_a_gateway_without_instances_opens_after_its_wait_and_says_so() -> None:
    host, plane = starting(0.05)
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(f"http://{plane.listen}/a")
    with capture_logs() as lines:
        open_when_known(host, plane, lambda: None)
    assert [(line["event"], line["services"]) for line in lines] == [
        ("opened_without_instances", ["s"])
    ]
    assert httpx2.get(f"http://{plane.listen}/a").status_code == 503
    plane.drain(5.0)


def test_a_gateway_that_waits_for_instances_takes_another_configuration_at_once() -> None:
    """Without the route that nobody serves, it waits for nobody."""
    host, plane = starting(30.0)
    without = msgspec.structs.replace(host.configuration.gateway, routes=())
    begun = time.monotonic()

    def look() -> None:
        if plane.state()["services"]:
            plane.reload(without)

    open_when_known(host, plane, look)
    assert time.monotonic() - begun < 15, "a reload is told of within that time, or given up"
    assert httpx2.get(f"http://{plane.listen}/a").status_code == 404
    plane.drain(5.0)
