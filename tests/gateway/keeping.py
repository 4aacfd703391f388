"""A gateway that keeps certificates of a directory, and what its clients see of them."""

import http.client
import socket
import ssl
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from directory import HOST, Directory
from secure import Secure, secure
from upstream import Asked, sized

from counterfoil.gateway.acme import Acme
from counterfoil.gateway.acme.folder import FolderStore
from counterfoil.gateway.acme.keeper import Keeper
from counterfoil.gateway.acme.schedule import Pace
from counterfoil.gateway.acme.store import Store
from counterfoil.gateway.services import Upstream

WAIT_SECONDS = 30.0
SOON = Pace(
    unavailable_seconds=0.1,
    unavailable_longest_seconds=0.1,
    refused_seconds=0.1,
    refused_longest_seconds=0.1,
)
"""What failed is tried again at once."""


@dataclass
class Kept:
    """A gateway, and what keeps its certificates."""

    gateway: Secure
    keeper: Keeper

    def standing(self, host: str) -> dict[str, Any]:
        """How a name stands, as operators see it."""
        found = [each for each in self.gateway.plane.state()["acme"] if each["host"] == host]
        return found[0] if found else {}

    def certificate(self, host: str) -> x509.Certificate:
        return certificate(self.gateway.port, host)

    def names(self, host: str) -> list[str]:
        return names(self.gateway.port, host)

    def await_issued(self, host: str) -> x509.Certificate:
        until(lambda: self.names(host) == [host], lambda: self.standing(host))
        return self.certificate(host)

    def await_trouble(self, host: str, failures: int = 1) -> dict[str, Any]:
        until(lambda: self.standing(host).get("failures", 0) >= failures)
        return self.standing(host)


def certificate(port: int, host: str) -> x509.Certificate:
    """The one that a client gets who asks for this name, whoever vouches for it."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection((HOST, port), timeout=20) as plain,
        context.wrap_socket(plain, server_hostname=host) as secured,
    ):
        der = secured.getpeercert(binary_form=True)
    assert der is not None
    return x509.load_der_x509_certificate(der)


def names(port: int, host: str) -> list[str]:
    """The names of that certificate."""
    extensions = certificate(port, host).extensions
    found = extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return found.value.get_values_for_type(x509.DNSName)


def until(condition: Callable[[], bool], tell: Callable[[], object] = lambda: "") -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + WAIT_SECONDS
    waiting = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, tell()
        waiting.wait(0.02)


def answer(_: Asked, connection: socket.socket) -> None:
    connection.sendall(sized(b"answer"))


@contextmanager
def kept(
    folder: Path,
    port: int,
    settings: Acme,
    *,
    store: Store | None = None,
    pace: Pace | None = None,
    clock: Callable[[], float] = time.time,
) -> Generator[Kept, None, None]:
    """A gateway on `port` (0 for any) whose state is in `folder`."""
    # On a busy machine a service may be slow, which is not what is tested here.
    patient = Upstream(connect_timeout_seconds=10.0, attempt_timeout_seconds=20.0)
    with secure(
        folder / "tls", answer, service=patient, listen=f"{HOST}:{port}", http3=False
    ) as gateway:
        keeper = Keeper(
            gateway.plane.certify,
            store or FolderStore(folder / "acme"),
            pace=pace,
            clock=clock,
            draw=lambda: 0.0,  # the beginning of each window, and no jitter
        )
        keeper.use(settings)
        try:
            yield Kept(gateway, keeper)
        finally:
            keeper.stop()


def trusting(directory: Directory) -> ssl.SSLContext:
    """A client that trusts what the directory issues, and nobody else."""
    return ssl.create_default_context(cadata=directory.root().public_bytes(Encoding.PEM).decode())


def asked(port: int, host: str, context: ssl.SSLContext) -> int:
    """The status of one request, on a connection of its own."""
    with (
        socket.create_connection((HOST, port), timeout=20) as plain,
        context.wrap_socket(plain, server_hostname=host) as secured,
    ):
        secured.sendall(f"GET /s/a HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n".encode())
        response = http.client.HTTPResponse(secured)
        response.begin()
        response.read()
        return response.status
