"""`counterfoil gateway`: a running application's gateway takes a changed file, or says why not."""

import http.client
import json
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import COUNTERFOIL, SHOP

from counterfoil.application import StateFolder
from counterfoil.supervisor import last_addresses


@dataclass(frozen=True)
class Running:
    """A shop of its own, whose file a test may change."""

    folder: Path
    state: StateFolder

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        given = [COUNTERFOIL, "gateway", command, str(self.folder)]
        if command == "reload":
            given += ["--state", str(self.state.root)]
        return subprocess.run(given, capture_output=True, text=True, timeout=60, check=False)

    def change(self, old: str, new: str) -> None:
        file = self.folder / "counterfoil.toml"
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new))

    def limits(self) -> list[str]:
        connection = http.client.HTTPConnection(last_addresses(self.state).admin, timeout=10)
        headers = {"authorization": f"Bearer {self.state.credential()}"}
        connection.request("GET", "/state", headers=headers)
        found = json.loads(connection.getresponse().read())["limits"]
        connection.close()
        return [limit["name"] for limit in found]


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    folder = shutil.copytree(SHOP, tmp_path / "shop")
    state = StateFolder(tmp_path / "state")
    command = [COUNTERFOIL, "up", str(folder), "--state", str(state.root), "--free-ports"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert any(line.startswith("console  http") for line in process.stdout)
    yield Running(folder, state)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0


def test_a_changed_file_comes_into_force_and_a_wrong_one_does_not(running: Running) -> None:
    running.change("[gateway.limits.address]", "[gateway.limits.host]")
    running.change('"address"]', '"host"]')
    assert running.limits() == ["address", "tenant"]
    taken = running.run("reload")
    assert taken.returncode == 0, taken.stderr
    assert taken.stdout.endswith("configuration 2 is in force\n")
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


def test_a_configuration_is_checked_without_anything_running() -> None:
    command = [COUNTERFOIL, "gateway", "check", str(SHOP)]
    checked = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (checked.returncode, "1 routes, 2 limits" in checked.stdout) == (0, True)


def test_a_key_goes_to_its_holder_and_its_digest_to_the_configuration() -> None:
    command = [COUNTERFOIL, "gateway", "key", "billing", "--tenant", "aurora"]
    made = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert made.stdout.startswith("cf_billing_")
    assert "[gateway.api_keys.billing]\nsha256 = " in made.stderr
    assert made.stdout.strip() not in made.stderr
