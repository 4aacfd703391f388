"""Service discovery: instances register with a lease, and clients watch them."""

import threading
from collections.abc import Iterator
from typing import Final

import msgspec

from counterfoil.coordination.client import Client, KeyValue
from counterfoil.coordination.errors import CoordinationError
from counterfoil.coordination.lease import Lease

PREFIX: Final = "/services/"
RETRY_SECONDS: Final = 0.2


class Instance(msgspec.Struct, frozen=True):
    """One instance of a service."""

    service: str
    instance: str
    address: str


class Registry:
    """The instances whose leases are alive."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def instances(self, service: str = "") -> list[Instance]:
        """The instances of one service, or of all."""
        return _instances(self._client.range(f"{PREFIX}{service}/" if service else PREFIX))

    def watch(self, stop: threading.Event) -> Iterator[dict[str, list[Instance]]]:
        """All instances by service, now and after each change."""
        for keys in self._client.watch(PREFIX, stop):
            found: dict[str, list[Instance]] = {}
            for instance in _instances(keys):
                found.setdefault(instance.service, []).append(instance)
            yield found


class Membership:
    """Keeps one instance registered, with a new lease whenever one is lost."""

    def __init__(self, client: Client, instance: Instance, *, ttl_seconds: float) -> None:
        self._client = client
        self._instance = instance
        self._ttl = ttl_seconds
        self._closed = threading.Event()
        self._lease: Lease | None = None
        self._thread = threading.Thread(target=self._keep, name="membership", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Unregister."""
        self._closed.set()
        if self._lease is not None:
            self._lease.revoke()
        self._thread.join()

    def _keep(self) -> None:
        key = f"{PREFIX}{self._instance.service}/{self._instance.instance}"
        value = msgspec.json.encode(self._instance).decode()
        while not self._closed.is_set():
            try:
                lease = self._lease = self._client.grant(self._ttl)
            except CoordinationError:
                self._closed.wait(RETRY_SECONDS)
                continue
            if self._closed.is_set():  # `close` may have run before this lease was assigned
                lease.revoke()
                return
            try:
                written = self._client.put(key, value, lease)
            except CoordinationError:
                written = None
            if written is not None:
                lease.lost.wait()
            else:
                lease.revoke()
                self._closed.wait(RETRY_SECONDS)


def _instances(keys: list[KeyValue]) -> list[Instance]:
    return [msgspec.json.decode(key.value, type=Instance) for key in keys]
