"""Pebble, the ACME directory that makers of clients test with, and a DNS that leads it here."""

import json
import os
import socket
import ssl
import subprocess
import threading
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography import x509

from counterfoil.certificates import certify
from counterfoil.engines import free_port, packages
from counterfoil.engines.errors import NotInstalled
from counterfoil.gateway.acme import Acme, ExternalAccount

VERSION: Final = "2.10.3"
MODULE: Final = "github.com/letsencrypt/pebble/v2/cmd"
REFUSED: Final = "refused.example"
EXTERNAL: Final = ("kid-1", "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W")
HOST: Final = "127.0.0.1"


@dataclass
class Directory:
    """A directory, which looks for names on `port` of loopback, whatever they are."""

    folder: Path
    external: bool = False
    """Whether it makes accounts only for who is known to it."""
    port: int = field(default_factory=free_port)
    _listen: int = field(default_factory=free_port)
    _management: int = field(default_factory=free_port)
    _dns: int = field(default_factory=free_port)
    _processes: list[subprocess.Popen[bytes]] = field(default_factory=list[subprocess.Popen[bytes]])

    @property
    def url(self) -> str:
        return f"https://{HOST}:{self._listen}/dir"

    @property
    def authority(self) -> Path:
        """Vouches for the directory itself, not for what it issues."""
        return self.folder / "ca.pem"

    def settings(self, *hosts: str, profile: str = "long", bound: bool = False) -> Acme:
        account = None
        if bound:
            (self.folder / "external.key").write_text(EXTERNAL[1])
            account = ExternalAccount(
                key_id=EXTERNAL[0], key_file=str(self.folder / "external.key")
            )
        return Acme(
            hosts=hosts,
            terms_agreed=True,
            directory=self.url,
            email="operator@shop.example",
            ca_file=str(self.authority),
            profile=profile,
            external_account=account,
        )

    def start(self) -> None:
        """As empty as at first."""
        if not self.authority.exists():
            certify(self.folder, ["pebble"], datetime.now(UTC), authority="Directory's own CA")
        lived = {"short": 12, "long": 90 * 86_400}
        settings = {
            "listenAddress": f"{HOST}:{self._listen}",
            "managementListenAddress": f"{HOST}:{self._management}",
            "certificate": str(self.folder / "pebble.pem"),
            "privateKey": str(self.folder / "pebble.key"),
            "httpPort": 1,
            "tlsPort": self.port,
            "ocspResponderURL": "",
            "externalAccountBindingRequired": self.external,
            "externalAccountMACKeys": dict([EXTERNAL]),
            "domainBlocklist": [REFUSED],
            "retryAfter": {"authz": 1, "order": 1},
            "keyAlgorithm": "ecdsa",
            "profiles": {
                name: {"description": name, "validityPeriod": seconds}
                for name, seconds in lived.items()
            },
        }
        file = self.folder / "pebble.json"
        file.write_text(json.dumps({"pebble": settings}))
        dns = ["-dnsserver", f"{HOST}:{self._dns}", "-management", f"{HOST}:{free_port()}"]
        dns += [f"-{each}=" for each in ("http01", "https01", "doh", "tlsalpn01", "defaultIPv6")]
        self._run("pebble-challtestsrv", dns)
        self._run("pebble", ["-config", str(file), "-dnsserver", f"{HOST}:{self._dns}"])
        waiting = threading.Event()
        while not self._answers():
            assert all(process.poll() is None for process in self._processes), "it runs"
            waiting.wait(0.02)

    def kill(self) -> None:
        """It forgets everything."""
        for process in self._processes:
            process.kill()
            process.wait()
        self._processes.clear()

    def suggest(self, certificate: str, start: datetime, end: datetime) -> None:
        """Have a certificate renewed within this window."""
        window = {"start": start.isoformat(), "end": end.isoformat()}
        response = json.dumps({"suggestedWindow": window})
        self._manage(
            "set-renewal-info/",
            json.dumps({"Certificate": certificate, "ARIResponse": response}).encode(),
        )

    def root(self) -> x509.Certificate:
        """Vouches for what it issues; another one after each start."""
        return x509.load_pem_x509_certificate(self._manage("roots/0"))

    def log(self) -> str:
        return (self.folder / "pebble.log").read_text()

    def _run(self, program: str, options: list[str]) -> None:
        path = packages.home() / f"{program}-{VERSION}" / program
        # In a hundred: the client asks three times, and of five as many are now and then in a row.
        refused = "0" if self.external else "1"
        quick = {"PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": refused}
        environment = {**os.environ, **quick}
        with (self.folder / f"{program}.log").open("ab") as log:
            command = ["setpriv", "--pdeathsig", "KILL", str(path), *options]
            self._processes.append(
                subprocess.Popen(command, env=environment, stdout=log, stderr=log)
            )

    def _answers(self) -> bool:
        try:
            self._manage("roots/0")
            with socket.create_connection((HOST, self._listen), timeout=1):
                return True
        except OSError:
            return False

    def _manage(self, path: str, body: bytes | None = None) -> bytes:
        trusting = ssl.create_default_context(cafile=str(self.authority))
        url = f"https://{HOST}:{self._management}/{path}"
        with urllib.request.urlopen(url, body, timeout=10, context=trusting) as answer:
            found: Any = answer.read()
            return found


def install() -> None:
    """Skips the test where it can't be had."""
    try:
        for program in ("pebble", "pebble-challtestsrv"):
            packages.go(f"{program}-{VERSION}", f"{MODULE}/{program}@v{VERSION}", print)
    except NotInstalled as error:
        pytest.skip(f"Pebble can't be had: {error}")


@contextmanager
def directory(folder: Path, *, external: bool = False) -> Generator[Directory, None, None]:
    """A directory that has started."""
    install()
    folder.mkdir(parents=True, exist_ok=True)
    found = Directory(folder, external)
    found.start()
    try:
        yield found
    finally:
        found.kill()
