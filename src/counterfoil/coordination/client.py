"""The coordination port: the operations that every engine offers.

They are etcd's verbs (revisions, leases, transactions on one key, watches), cut down to what
discovery, leadership and ids need. What a lease means to its holder is in `lease`; the engines are
`embedded` and `etcd`.
"""

import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

if TYPE_CHECKING:
    from counterfoil.coordination.lease import Lease

TIMEOUT_SECONDS: Final = 2.0
"""Within which every call of an engine returns or raises."""


class KeyValue(msgspec.Struct, frozen=True):
    """A key with its value, and the revisions that made it and changed it last."""

    key: str
    value: str
    create_revision: int
    mod_revision: int
    lease: int


class Client(Protocol):
    """A client of one engine; may be used by several threads. Keys begin with a slash.

    Raises (from every verb but `watch`):
        Unavailable: no answer in time, or none that can be used.
        Refused: the engine won't, whatever is tried: credentials, permissions, version.
    """

    def range(self, prefix: str) -> list[KeyValue]:
        """All keys that begin with `prefix`, in order; linearizable."""
        ...

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
        ...

    def grant(self, ttl_seconds: float) -> "Lease":
        """A lease that keeps itself alive until it is revoked or lost."""
        ...

    def keep_alive(self, lease: int, *, timeout: float) -> bool:
        """Start the time of the lease of this number anew; False if it has ended."""
        ...

    def revoke(self, lease: int) -> None:
        """End the lease of this number, and delete the keys that hang on it."""
        ...

    def watch(self, prefix: str, stop: threading.Event) -> Iterator[list[KeyValue]]:
        """The keys that begin with `prefix`, now and after each change, until `stop` is set.

        Each yield is whole, and several changes may come as one; so nothing is missed while the
        engine is away. While it is, the last one stands.

        Raises:
            Refused: as above; what is only unavailable is waited for.
        """
        ...
