"""The coordination port: the operations that every engine offers.

They are etcd's (revisions, leases, transactions on one key, watches), cut down to what discovery,
leadership and ids need. `lease` has the holder's view of a lease; the engines are `embedded` and
`etcd`.
"""

import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

if TYPE_CHECKING:
    from counterfoil.coordination.lease import Lease

TIMEOUT_SECONDS: Final = 2.0
"""Every call to an engine returns or raises within this time."""


class KeyValue(msgspec.Struct, frozen=True):
    """A key with its value, the revision that created it, and that of its last change."""

    key: str
    value: str
    create_revision: int
    mod_revision: int
    lease: int


class Client(Protocol):
    """A client of one engine; thread-safe. Keys begin with a slash.

    Raises (from every verb but `watch`):
        Unavailable: no answer in time, or an unusable one.
        Refused: retrying won't help: wrong credentials, permissions or version.
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
        """Set a key, attached to a lease if one is given.

        None if the lease has ended, or if the key's `mod_revision` is not `if_revision` (0: the
        key must not exist).
        """
        ...

    def grant(self, ttl_seconds: float) -> "Lease":
        """A lease that is kept alive until it is revoked or lost."""
        ...

    def keep_alive(self, lease: int, *, timeout: float) -> bool:
        """Renew the lease `lease` for its whole time to live; False if it has ended."""
        ...

    def revoke(self, lease: int) -> None:
        """End the lease `lease`, and delete its keys."""
        ...

    def watch(self, prefix: str, stop: threading.Event) -> Iterator[list[KeyValue]]:
        """The keys that begin with `prefix`, now and after each change, until `stop` is set.

        Each item is the complete set, and may combine several changes. So no change is missed when
        the engine is unavailable for a while; until it is back, nothing is yielded.

        Raises:
            Refused: as above. An unavailable engine is waited for.
        """
        ...
