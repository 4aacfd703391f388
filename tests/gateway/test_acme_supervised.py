"""`counterfoil up` with a directory: from nothing, by a reload, and after a kill."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from directory import Directory, directory
from keeping import asked, names, trusting, until

from counterfoil.engines import free_port

SHOP = Path(__file__).parents[2] / "examples" / "shop"
COUNTERFOIL = str(Path(sys.executable).with_name("counterfoil"))


@pytest.fixture
def pebble(tmp_path: Path) -> Iterator[Directory]:
    with directory(tmp_path / "pebble") as found:
        yield found


def configured(folder: Path, pebble: Directory, *hosts: str) -> None:
    """A shop at the port at which the directory looks."""
    text = (SHOP / "counterfoil.toml").read_text()
    text = text.replace('listen = "127.0.0.1:8443"', f'listen = "127.0.0.1:{pebble.port}"')
    text = re.sub(r"127\.0\.0\.1:84\d\d", lambda _: f"127.0.0.1:{free_port()}", text)
    for part in ("coordination", "console"):
        text += f'\n[{part}]\nlisten = "127.0.0.1:{free_port()}"\n'
    shutil.copy(pebble.authority, folder / "directory.pem")
    acme = f"""
[gateway.acme]
hosts = {json.dumps(hosts)}
terms_agreed = true
directory = "{pebble.url}"
ca_file = "directory.pem"
profile = "long"
"""
    (folder / "counterfoil.toml").write_text(text + acme)


def test_an_application_gets_its_certificates_and_keeps_them(
    pebble: Directory, tmp_path: Path
) -> None:
    folder = shutil.copytree(SHOP, tmp_path / "shop")
    configured(folder, pebble, "shop.example")
    file = folder / "counterfoil.toml"
    process = subprocess.Popen([COUNTERFOIL, "up", folder], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert any(line.startswith("console  http") for line in process.stdout)

    def run(*command: str) -> str:
        given = [COUNTERFOIL, "gateway", *command, folder]
        done = subprocess.run(given, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def serves(name: str) -> bool:
        try:
            return names(pebble.port, name) == [name]
        except OSError:
            return False  # it is being started

    try:
        until(lambda: serves("shop.example"))
        told = run("certificates")
        assert re.search(r"^ *shop\.example +acme +20\d\d-.* UTC, in 8\d d", told, re.M)
        assert re.search(r"^ *shop\.example +is renewed 20\d\d-.* UTC, in [56]\d d", told, re.M)
        assert asked(pebble.port, "shop.example", trusting(pebble)) == 404
        text = file.read_text()
        file.write_text(text.replace('["shop.example"]', '["shop.example", "pay.example"]'))
        run("reload")
        until(lambda: serves("pay.example"))

        pebble.kill()
        running = json.loads((folder / ".counterfoil" / "run.json").read_text())
        (gateway,) = (each["pid"] for each in running["processes"] if each["kind"] == "gateway")
        os.kill(gateway, signal.SIGKILL)

        until(lambda: serves("shop.example") and serves("pay.example"))
        log = (folder / ".counterfoil" / "logs" / "gateway.log").read_text()
        assert '"event": "acme_issued"' in log
        assert "PRIVATE KEY" not in log
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
