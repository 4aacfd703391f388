"""What a test needs of etcd beside one plain member: its JSON gateway, and members of one's own."""

import contextlib
import json
import signal
import ssl
import subprocess
import threading
import urllib.request
from collections.abc import Generator
from pathlib import Path
from typing import Any

from counterfoil.coordination import EtcdClient, KeyValue, Unavailable
from counterfoil.engines import free_port, packages, server
from counterfoil.engines.etcd import VERSION

LOOPBACK = "127.0.0.1"


def ask(address: str, verb: str, token: str = "", **question: object) -> dict[str, Any]:
    """One call of etcd's JSON gateway, for what the client has no verbs for."""
    headers = {"authorization": token} if token else {}
    request = urllib.request.Request(f"{address}/v3/{verb}", json.dumps(question).encode(), headers)
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.load(answer)


def written(client: EtcdClient, key: str) -> KeyValue:
    """Put until it is acknowledged: an election may be under way."""
    waiting = threading.Event()
    while True:
        try:
            found = client.put(key, "1")
        except Unavailable:
            waiting.wait(0.05)
            continue
        assert found is not None
        return found


class Member:
    """A process of etcd, with its folder and its ports over all its lives."""

    def __init__(self, name: str, folder: Path, scheme: str = "http") -> None:
        self.name = name
        self.address = f"{scheme}://{LOOPBACK}:{free_port()}"
        self.peer = f"http://{LOOPBACK}:{free_port()}"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, cluster: str = "", *more: str) -> None:
        """Start it, alone or in `cluster`; doesn't wait."""
        command = ["setpriv", "--pdeathsig", "KILL"]
        command += [str(packages.home() / f"etcd-{VERSION}" / "etcd"), "--name", self.name]
        command += ["--data-dir", str(self._folder / self.name), "--log-level", "error"]
        command += ["--listen-client-urls", self.address, "--advertise-client-urls", self.address]
        command += ["--listen-peer-urls", self.peer, "--initial-advertise-peer-urls", self.peer]
        command += ["--initial-cluster", cluster or f"{self.name}={self.peer}", *more]
        self._process = subprocess.Popen(command)

    def wait(self) -> None:
        """Until it answers, with a leader."""
        waiting = threading.Event()
        while not self._healthy():
            assert self._process is not None and self._process.poll() is None, "it runs"
            waiting.wait(0.05)

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def leads(self) -> bool:
        """Whether it is the leader."""
        status = ask(self.address, "maintenance/status")
        return status["leader"] == status["header"]["member_id"]

    def _healthy(self) -> bool:
        trusting = ssl._create_unverified_context() if self.address.startswith("https") else None
        with contextlib.suppress(OSError):
            answer = urllib.request.urlopen(f"{self.address}/health", timeout=1, context=trusting)
            return json.load(answer)["health"] == "true"
        return False


@contextlib.contextmanager
def members(
    folder: Path, number: int, *more: str, scheme: str = "http"
) -> Generator[list[Member], None, None]:
    """A cluster that answers; every process has ended at the end.

    Raises:
        NotInstalled: says what is missing.
    """
    server("etcd").install(print)
    found = [Member(f"member-{each}", folder, scheme) for each in range(number)]
    cluster = ",".join(f"{each.name}={each.peer}" for each in found)
    for each in found:
        each.start(cluster, *more)
    try:
        for each in found:
            each.wait()
        yield found
    finally:
        for each in found:
            each.kill()
