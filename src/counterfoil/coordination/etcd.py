"""Client of etcd: the native client with Python types and errors.

All keys of an application lie below `/counterfoil/<application>`, which callers never see. So
several applications can share a cluster, and an etcd role can be restricted to one of them.
"""

import math
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit

from counterfoil import _native
from counterfoil.coordination.client import TIMEOUT_SECONDS, Client, KeyValue
from counterfoil.coordination.errors import Refused, Unavailable
from counterfoil.coordination.lease import Lease, elapsed_seconds

STOP_SECONDS: Final = 0.5
"""How soon an idle watch notices `stop`."""


class EtcdClient(Client):
    """A client of the members at `addresses` for one application; connects on first use.

    Args:
        addresses: `http://host:port` or `https://host:port` (trusting the system's roots) of one or
            more members, comma-separated; with authentication `http://user@host:port`.
        application: its name, which prefixes the keys.
        password: the user's.

    Raises:
        Refused: `addresses` can't be used.
    """

    def __init__(self, addresses: str, application: str, *, password: str = "") -> None:
        members = [_member(address.strip()) for address in addresses.split(",")]
        users = {unquote(member.username or "") for member in members}
        if len(users) > 1:
            raise Refused("the addresses of etcd name several users", hint="use one for all")
        user = users.pop()
        with _errors():
            self._etcd = _native.Etcd(
                [f"{member.scheme}://{member.netloc.rpartition('@')[2]}" for member in members],
                (user, password) if user else None,
                f"/counterfoil/{application}",
            )

    def range(self, prefix: str) -> list[KeyValue]:
        """A linearizable range read: it asks the leader."""
        with _errors():
            return [KeyValue(*row) for row in self._etcd.range(prefix, TIMEOUT_SECONDS)]

    def put(
        self,
        key: str,
        value: str,
        lease: Lease | None = None,
        *,
        if_revision: int | None = None,
    ) -> KeyValue | None:
        """One transaction: compare, put, read back."""
        number = lease.id if lease else 0
        with _errors():
            row = self._etcd.put(key, value, number, if_revision, TIMEOUT_SECONDS)
        return KeyValue(*row) if row else None

    def grant(self, ttl_seconds: float) -> Lease:
        """A lease in whole seconds, rounded up; its holder counts only `ttl_seconds`."""
        asked = elapsed_seconds()
        with _errors():
            number, granted = self._etcd.grant(math.ceil(ttl_seconds), TIMEOUT_SECONDS)
        # etcd has whole seconds and a minimum (one and a half election timeouts), so the lease may
        # last longer than asked. The holder still counts only what it asked for.
        return Lease(self, number, min(ttl_seconds, granted), asked)

    def keep_alive(self, lease: int, *, timeout: float) -> bool:
        """One message on its own stream."""
        with _errors():
            return self._etcd.keep_alive(lease, timeout)

    def revoke(self, lease: int) -> None:
        """One Raft proposal."""
        with _errors():
            self._etcd.revoke(lease, TIMEOUT_SECONDS)

    def watch(self, prefix: str, stop: threading.Event) -> Iterator[list[KeyValue]]:
        """A native watch, polled every `STOP_SECONDS`."""
        watch = self._etcd.watch(prefix)
        while not stop.is_set():
            with _errors():
                rows = watch.next(STOP_SECONDS)
            if rows is not None:
                yield [KeyValue(*row) for row in rows]


def _member(address: str) -> SplitResult:
    if ":" in address.partition("//")[2].rpartition("@")[0]:
        raise Refused(
            "an address of etcd contains a password, which would end up in logs",
            hint="leave the user in the address and put the password in ETCD_PASSWORD",
        )
    with suppress(ValueError):
        parts = urlsplit(address)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port:
            return parts
    raise Refused(
        f"{address!r} is not an address of etcd",
        hint="write http://host:port or https://host:port, with commas between members",
    )


@contextmanager
def _errors() -> Generator[None, None, None]:
    try:
        yield
    except ConnectionError as error:
        raise Unavailable(str(error), hint="is etcd running at this address?") from error
    except RuntimeError as error:
        message, hint = error.args
        raise Refused(message, hint=hint) from error
