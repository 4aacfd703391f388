"""Servers of the real engines: fetched, started, broken, started again and stopped."""

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from counterfoil.engines import DidNotAnswer, NotInstalled, packages, start
from counterfoil.engines.server import accepts

COUNTERFOIL = str(Path(sys.executable).with_name("counterfoil"))


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def up(folder: Path) -> subprocess.Popen[str]:
    """The command line runs a Redis, which answers."""
    command = [COUNTERFOIL, "engines", "up", "redis", "--folder", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    while not process.stdout.readline().startswith("redis = "):
        assert process.poll() is None
    return process


@pytest.mark.parametrize("name", ["redis", "postgres", "etcd", "kafka"])
def test_an_engine_that_was_killed_starts_again_at_its_address(name: str, tmp_path: Path) -> None:
    with start(name, tmp_path) as engine:
        address, first = engine.address, engine.servers[0].pid
        engine.kill()
        assert not accepts(engine.servers[0].port)
        engine.start()
        assert engine.address == address
        second = engine.servers[0].pid
        assert alive(second) and second != first
    assert not alive(second)


def test_a_server_that_can_not_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "server").mkdir()
    (tmp_path / "server" / "redis.conf").mkdir()
    with pytest.raises(DidNotAnswer, match="Is a directory"):
        start("redis", tmp_path)


def test_what_can_not_be_fetched_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(NotInstalled, match="redis-server is missing\n  hint: apt-get install"):
        packages.debian("redis-server", "redis-server", lambda _: None)


def test_the_servers_of_a_process_that_was_killed_die_with_it(tmp_path: Path) -> None:
    process = up(tmp_path)
    shown = subprocess.run(
        [COUNTERFOIL, "engines", "status", "--json", "--folder", str(tmp_path)],
        check=True,
        capture_output=True,
    )
    pid = json.loads(shown.stdout)["servers"][0]["pid"]
    assert alive(pid)
    # A zombie of ours may be left in /proc, so a pidfd tells the end.
    ended = os.pidfd_open(pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert select.select([ended], [], [], 20)[0]
    os.close(ended)


def test_engines_down_waits_until_the_last_server_has_ended(tmp_path: Path) -> None:
    process = up(tmp_path)
    subprocess.run([COUNTERFOIL, "engines", "down", "--folder", str(tmp_path)], check=True)
    assert process.wait(20) == 0
