"""An application whose limits are shared: its supervisor starts the store too."""

import json
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

from counterfoil.application import StateFolder

COUNTERFOIL = str(Path(sys.executable).with_name("counterfoil"))


def test_the_gateway_of_an_application_shares_its_limits_by_a_redis_that_is_started_for_it(
    tmp_path: Path,
) -> None:
    folder, state = tmp_path / "purse", StateFolder(tmp_path / "state")
    subprocess.run([COUNTERFOIL, "new", str(folder)], check=True, capture_output=True)
    with (folder / "counterfoil.toml").open("a") as file:
        file.write('\n[engines]\nlimits = "redis"\n')
    command = [COUNTERFOIL, "up", str(folder), "--state", str(state.root), "--free-ports"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    while not process.stdout.readline().startswith("console"):
        assert process.poll() is None
    addresses = json.loads(state.addresses.read_text())
    request = urllib.request.Request(
        f"http://{addresses['admin']}/state",
        headers={"authorization": f"Bearer {state.credential()}"},
    )

    def shared_limits() -> dict[str, Any]:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.load(answer)["shared_limits"]

    try:
        while not shared_limits()["connected"]:
            time.sleep(0.05)
        assert shared_limits()["address"] in addresses["engines"]["redis"]
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
