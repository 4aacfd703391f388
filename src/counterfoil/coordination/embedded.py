"""Client of the embedded coordination node: a JSON POST for each operation."""

import http.client
import random
import threading
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from counterfoil.coordination.client import TIMEOUT_SECONDS, Client, KeyValue
from counterfoil.coordination.errors import Unavailable
from counterfoil.coordination.lease import Lease, elapsed_seconds

WATCH_TIMEOUT_SECONDS: Final = 25.0
"""Longer than the node holds a watch."""


class EmbeddedClient(Client):
    """A client of the node at `address` (`http://host:port`); connects for each call."""

    def __init__(self, address: str, credential: str) -> None:
        self._address = urlsplit(address).netloc
        self._headers = {"authorization": f"Bearer {credential}"}

    def range(self, prefix: str) -> list[KeyValue]:
        """One request to the node."""
        return msgspec.convert(self._call("read", prefix=prefix)["keys"], list[KeyValue])

    def put(
        self,
        key: str,
        value: str,
        lease: Lease | None = None,
        *,
        if_revision: int | None = None,
    ) -> KeyValue | None:
        """One transaction of the node."""
        number = lease.id if lease else 0
        found = self._call("put", key=key, value=value, lease=number, if_revision=if_revision)
        return msgspec.convert(found["key"], KeyValue | None)

    def grant(self, ttl_seconds: float) -> Lease:
        """A lease of exactly `ttl_seconds`."""
        asked = elapsed_seconds()
        return Lease(self, self._call("grant", ttl=ttl_seconds)["lease"], ttl_seconds, asked)

    def keep_alive(self, lease: int, *, timeout: float) -> bool:
        """Answered from the node's memory."""
        return self._call("keep_alive", lease=lease, timeout=timeout)["alive"]

    def revoke(self, lease: int) -> None:
        """One transaction of the node."""
        self._call("revoke", lease=lease)

    def watch(self, prefix: str, stop: threading.Event) -> Iterator[list[KeyValue]]:
        """Repeated long polls."""
        revision = -1
        while not stop.is_set():
            try:
                found = self._call(
                    "watch", prefix=prefix, revision=revision, timeout=WATCH_TIMEOUT_SECONDS
                )
            except Unavailable:
                stop.wait(random.uniform(0.05, 0.3))  # noqa: S311 - jitter, not a secret
                continue
            revision = found["revision"]
            yield msgspec.convert(found["keys"], list[KeyValue])

    def _call(self, verb: str, *, timeout: float = TIMEOUT_SECONDS, **arguments: object) -> Any:
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
