"""Leader election: one lease holder at a time, each with a higher fencing token.

A lease alone can't protect a resource, because a paused holder doesn't notice that it has ended
(Kleppmann, "How to do distributed locking", 2016). So every write carries the token, and its
receiver refuses tokens lower than the highest it has seen.
"""

import threading
from typing import Final

import msgspec

from counterfoil.coordination.client import Client, KeyValue
from counterfoil.coordination.errors import Unavailable
from counterfoil.coordination.lease import Lease

PREFIX: Final = "/leaders/"
RETRY_SECONDS: Final = 0.1


class LeaderLease:
    """One term as leader."""

    def __init__(self, lease: Lease, fencing_token: int) -> None:
        self.fencing_token = fencing_token
        self._lease = lease

    def held(self) -> bool:
        """Whether the term can't have ended yet; send the token with writes all the same."""
        return self._lease.alive()

    def resign(self) -> None:
        """End the term."""
        self._lease.revoke()


class Leader(msgspec.Struct, frozen=True):
    """The leader of a name, with its term."""

    name: str
    candidate: str
    fencing_token: int


def leaders(client: Client) -> list[Leader]:
    """All current leaders.

    Raises:
        Unavailable: the engine did not answer.
    """
    return [
        Leader(key.key.removeprefix(PREFIX), key.value, key.create_revision)
        for key in client.range(PREFIX)
    ]


class Leadership:
    """A candidate for leading `name`."""

    def __init__(self, client: Client, name: str, candidate: str, *, ttl_seconds: float) -> None:
        self._client = client
        self._key = f"{PREFIX}{name}"
        self._candidate = candidate
        self._ttl = ttl_seconds

    def campaign(self, stop: threading.Event) -> LeaderLease | None:
        """Wait until this candidate leads; None once `stop` is set."""
        lease: Lease | None = None
        while not stop.is_set():
            try:
                if lease is None or not lease.alive():
                    lease = self._client.grant(self._ttl)
                key = None if self._taken() else self._put(lease)
            except Unavailable:
                # The key may have been set all the same; revoking the lease removes it.
                if lease is not None:
                    lease.revoke()
                lease = None
            else:
                if key is not None:
                    return LeaderLease(lease, key.create_revision)
            stop.wait(RETRY_SECONDS)
        if lease is not None:
            lease.revoke()
        return None

    def _taken(self) -> bool:
        # Read first: in etcd even a refused put is written to every member's disk.
        return any(key.key == self._key for key in self._client.range(self._key))

    def _put(self, lease: Lease) -> KeyValue | None:
        return self._client.put(self._key, self._candidate, lease, if_revision=0)
