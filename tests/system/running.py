"""An application that runs whole, as a user would run it, on free ports."""

import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2

from counterfoil.application import StateFolder
from counterfoil.kafka_access import KafkaAccess

SHOP = Path(__file__).parents[2] / "examples" / "shop"
COUNTERFOIL = str(Path(sys.executable).with_name("counterfoil"))


PURCHASE = {
    "customer": "page",
    "purchased_on": "1997-03-01",
    "amount": 1999,
    "currency": "USD",
    "discs": 2,
}


@dataclass(frozen=True)
class RunningShop:
    """Addresses and files of a shop that is up."""

    gateway: str
    console: str
    key: str
    state: StateFolder
    folder: Path = SHOP

    @cache  # noqa: B019 - one shop a session
    def token(self, tenant: str = "aurora", tier: str = "gold") -> str:
        """A token of the development issuer."""
        command = [COUNTERFOIL, "token", self.folder, "--tenant", tenant, "--tier", tier]
        command += ["--state", str(self.state.root)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def pay(self, key: str, **change: object) -> dict[str, Any]:
        """Make a purchase that is good but for `change`, and return the answer."""
        given = {"authorization": f"Bearer {self.token()}", "idempotency-key": key}
        with self.client() as client:
            answer = client.post("/payments", json={**PURCHASE, **change}, headers=given)
        assert answer.status_code == 201, answer.text
        return answer.json()

    @contextmanager
    def connection(self) -> Generator[ssl.SSLSocket, None, None]:
        """A bare connection to the gateway."""
        found = urlsplit(self.gateway)
        assert found.hostname is not None
        with (
            socket.create_connection((found.hostname, found.port or 443), timeout=10) as raw,
            self.trust().wrap_socket(raw, server_hostname=found.hostname) as connection,
        ):
            yield connection

    def trust(self) -> ssl.SSLContext:
        """Trust in the development authority."""
        return ssl.create_default_context(cafile=str(self.state.tls / "ca.pem"))

    def client(self, **arguments: object) -> httpx2.Client:
        """A client of the gateway that trusts the development authority."""
        return httpx2.Client(base_url=self.gateway, verify=self.trust(), **arguments)  # type: ignore[arg-type]


def kafka_settings(access: KafkaAccess) -> str:
    """What `counterfoil.toml` says of a Kafka, besides its address."""
    told = {"protocol": access.protocol, "mechanism": access.mechanism, "user": access.user}
    files = {"ca": access.ca, "certificate": access.certificate, "key": access.key}
    given = {name: value for name, value in {**told, **files}.items() if value}
    return "\n[kafka]\n" + "".join(f'{name} = "{value}"\n' for name, value in given.items())


@contextmanager
def running(folder: Path, state: Path) -> Generator[RunningShop, None, None]:
    """An application that is up, with its state in `state`."""
    command = [COUNTERFOIL, "up", str(folder), "--state", str(state), "--free-ports"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        found: dict[str, str] = {}
        for line in process.stdout:
            name, _, rest = line.strip().partition(" ")
            found[name] = rest.strip()
            if name == "console" and rest.strip().startswith("http"):
                break
        console = urlsplit(found["console"])
        yield RunningShop(
            found["gateway"],
            f"http://{console.netloc}",
            console.fragment.removeprefix("key="),
            StateFolder(state),
            folder,
        )
    finally:
        process.send_signal(signal.SIGINT)
        ended = process.wait(30)
    assert ended == 0
