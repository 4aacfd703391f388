"""The client's side: keys, leases that keep themselves alive, and watches."""

import http.client
import random
import threading
import time
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from counterfoil.coordination.errors import LeaseLost, Unavailable
from counterfoil.coordination.node import KeyValue

TIMEOUT_SECONDS: Final = 2.0
WATCH_TIMEOUT_SECONDS: Final = 25.0
"""Longer than the node holds a watch."""


class Client:
    """Talks to the node at `address`; may be used by several threads."""

    def __init__(self, address: str, credential: str) -> None:
        self._address = urlsplit(address).netloc
        self._headers = {"authorization": f"Bearer {credential}"}

    def call(self, verb: str, *, timeout: float = TIMEOUT_SECONDS, **arguments: object) -> Any:
        """One call of the node.

        Raises:
            Unavailable: no answer, or not one that can be used.
        """
        connection = http.client.HTTPConnection(self._address, timeout=timeout)
        try:
            connection.request("POST", f"/v1/{verb}", msgspec.json.encode(arguments), self._headers)
            answer = connection.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise Unavailable(f"coordination at {self._address}: {error}") from error
        finally:
            connection.close()
        if answer.status != 200:
            raise Unavailable(f"coordination at {self._address} answered {answer.status}")
        return msgspec.json.decode(content)

    def range(self, prefix: str) -> list[KeyValue]:
        """All keys below `prefix`."""
        return msgspec.convert(self.call("read", prefix=prefix)["keys"], list[KeyValue])

    def put(
        self,
        key: str,
        value: str,
        lease: "Lease | None" = None,
        *,
        if_revision: int | None = None,
    ) -> KeyValue | None:
        """Set a key, on a lease if one is given.

        None if the lease has ended, or if the key's `mod_revision` is not `if_revision` (0: the
        key must not exist).
        """
        number = lease.id if lease else 0
        found = self.call("put", key=key, value=value, lease=number, if_revision=if_revision)
        return msgspec.convert(found["key"], KeyValue | None)

    def grant(self, ttl_seconds: float) -> "Lease":
        """A lease that keeps itself alive until it is revoked or lost."""
        asked = time.monotonic()
        lease = self.call("grant", ttl=ttl_seconds)["lease"]
        return Lease(self, lease, ttl_seconds, asked)

    def watch(self, prefix: str, stop: threading.Event) -> Iterator[list[KeyValue]]:
        """The keys below `prefix`, now and after each change, until `stop` is set.

        Each yield is whole, so nothing is missed while the node is away; while it is, the last
        one stands.
        """
        revision = -1
        while not stop.is_set():
            try:
                found = self.call(
                    "watch", prefix=prefix, revision=revision, timeout=WATCH_TIMEOUT_SECONDS
                )
            except Unavailable:
                stop.wait(random.uniform(0.05, 0.3))  # noqa: S311 - jitter, not a secret
                continue
            revision = found["revision"]
            yield msgspec.convert(found["keys"], list[KeyValue])


class Lease:
    """A lease, judged by this process's own clock.

    Its deadline counts from before the last request that extended it was sent, so it ends here no
    later than at the node. Once lost it stays lost.
    """

    def __init__(self, client: Client, number: int, ttl_seconds: float, asked: float) -> None:
        self.id = number
        self.lost = threading.Event()
        self._client = client
        self._ttl = ttl_seconds
        self._deadline = asked + ttl_seconds
        threading.Thread(target=self._keep, name=f"lease-{number}", daemon=True).start()

    def alive(self) -> bool:
        """Whether the lease can't have ended yet."""
        if not self.lost.is_set() and time.monotonic() < self._deadline:
            return True
        self.lost.set()
        return False

    def revoke(self) -> None:
        """Give the lease back; if the node can't be told, it ends by itself."""
        self.lost.set()
        try:
            self._client.call("revoke", lease=self.id)
        except Unavailable:
            return

    def _keep(self) -> None:
        while self.alive():
            if self.lost.wait(self._ttl / 4):
                return
            asked = time.monotonic()
            try:
                answer = self._client.call("keep_alive", lease=self.id, timeout=self._ttl / 2)
            except Unavailable:
                continue
            if not answer["alive"]:
                self.lost.set()
            elif self.alive():
                self._deadline = asked + self._ttl


def connect(address: str, credential: str) -> Client:
    """A client of the node at `address` (`http://host:port`); nothing is sent yet."""
    return Client(address, credential)


def require(lease: Lease) -> None:
    """Raise `LeaseLost` unless the lease is alive."""
    if not lease.alive():
        raise LeaseLost("the lease has ended", hint="ask for a new one")
