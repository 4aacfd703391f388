"""Certificate store shared by several gateways, in coordination.

The leader (`coordination/leadership.py`) orders; all gateways watch the same keys and publish what
they find. A directory connects to any gateway, so a challenge must be published by all of them
before the directory is told to validate: each gateway stores the revision up to which it publishes
challenges, and the leader waits for all. A challenge is attached to its writer's lease.

Coordination's store then contains private keys: whoever can read its keys has them.
"""

import threading
import time
import uuid
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Final, TypeVar

import msgspec
import structlog

from counterfoil.coordination import Client, CoordinationError, KeyValue, Leadership, Lease
from counterfoil.gateway.acme.errors import StoreUnavailable, Superseded
from counterfoil.gateway.acme.pairs import Pair
from counterfoil.gateway.acme.store import Account, Held, Record, Store, Term, View

KEYS: Final = "/acme/"
ACCOUNT: Final = f"{KEYS}account"
HOSTS: Final = f"{KEYS}hosts/"
CHALLENGES: Final = f"{KEYS}challenges/"
GATEWAYS: Final = "/acme-gateways/"
"""Outside `KEYS`, so that writing a gateway's revision wakes no watch."""
LEADERSHIP: Final = "acme"
LEASE_SECONDS: Final = 3.0
SHOWN_SECONDS: Final = 5.0
"""For all gateways to publish a challenge. A gateway that has ended is forgotten after
`LEASE_SECONDS`. One that lags longer may not be contacted; if it is, the order fails and is
repeated."""
LOOK_SECONDS: Final = 0.05
AGAIN_SECONDS: Final = 5.0
"""Between retries after coordination has refused a watch: an operator has to repair it."""
Document = TypeVar("Document", Account, Record, Pair)
log = structlog.get_logger()


class SharedStore(Store):
    """A store in coordination, below `/acme/`."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._name = uuid.uuid4().hex
        self._changed: Callable[[View], None] = lambda _: None

    def load(self) -> View:
        """One linearizable read."""
        with _errors():
            return _view(self._client.range(KEYS))

    def listen(self, changed: Callable[[View], None]) -> None:
        """Called by the watch."""
        self._changed = changed

    def follow(self, stop: threading.Event) -> None:
        """A watch; after each change this gateway stores the revision that it publishes."""
        lease: Lease | None = None
        while not stop.is_set():
            try:
                for keys in self._client.watch(KEYS, stop):
                    self._changed(_view(keys))
                    lease = self._say(lease, keys)
            except (CoordinationError, StoreUnavailable) as error:
                log.warning("acme_not_followed", error=str(error))
                stop.wait(AGAIN_SECONDS)
        if lease is not None:
            lease.revoke()

    def _say(self, lease: Lease | None, keys: Sequence[KeyValue]) -> Lease | None:
        """Store the revision up to which this gateway publishes challenges."""
        shown = [key.mod_revision for key in keys if key.key.startswith(CHALLENGES)]
        try:
            if lease is None or not lease.alive():
                lease = self._client.grant(LEASE_SECONDS)
            self._client.put(f"{GATEWAYS}{self._name}", str(max(shown, default=0)), lease)
        except CoordinationError as error:
            # Then the leader doesn't wait for this gateway.
            log.warning("acme_gateway_not_told", error=str(error))
        return lease

    def campaign(self, stop: threading.Event) -> Term | None:
        """A campaign for leading `acme`."""
        with _errors():
            return Leadership(
                self._client, LEADERSHIP, self._name, ttl_seconds=LEASE_SECONDS
            ).campaign(stop)

    def keep(self, host: str, record: Record, after: Held | None) -> Held:
        """A put conditional on the revision that was read."""
        revision = after.revision if after else 0
        with _errors():
            written = self._client.put(f"{HOSTS}{host}", _text(record), if_revision=revision)
        if written is None:
            raise Superseded(f"another gateway has written what it knows of {host}")
        return Held(record, written.mod_revision)

    def account(self) -> Account | None:
        """One linearizable read."""
        with _errors():
            found = [key for key in self._client.range(ACCOUNT) if key.key == ACCOUNT]
        return _read(found[0], Account) if found else None

    def keep_account(self, account: Account) -> None:
        """A put; the last one wins, and an unused account costs nothing."""
        with _errors():
            self._client.put(ACCOUNT, _text(account))

    @contextmanager
    def shown(self, host: str, proof: Pair) -> Generator[None, None, None]:
        """On its own lease, so that it is gone when the block or the process ends."""
        with _errors():
            lease = self._client.grant(LEASE_SECONDS)
        try:
            with _errors():
                written = self._client.put(f"{CHALLENGES}{host}", _text(proof), lease)
                if written is None:
                    raise StoreUnavailable("coordination ended a lease before its time")
                self._await_shown(written.mod_revision)
            yield
        finally:
            lease.revoke()

    def _await_shown(self, revision: int) -> None:
        deadline = time.monotonic() + SHOWN_SECONDS
        while behind := [
            key.key for key in self._client.range(GATEWAYS) if int(key.value) < revision
        ]:
            if time.monotonic() > deadline:
                log.warning("acme_proof_not_everywhere", gateways=len(behind))
                return
            time.sleep(LOOK_SECONDS)


@contextmanager
def _errors() -> Generator[None, None, None]:
    try:
        yield
    except CoordinationError as error:
        raise StoreUnavailable(str(error.args[0]), hint=error.hint) from error


def _view(keys: Sequence[KeyValue]) -> View:
    held = {
        key.key.removeprefix(HOSTS): Held(_read(key, Record), key.mod_revision)
        for key in keys
        if key.key.startswith(HOSTS)
    }
    challenges = {
        key.key.removeprefix(CHALLENGES): _read(key, Pair)
        for key in keys
        if key.key.startswith(CHALLENGES)
    }
    return View(held, challenges)


def _read(key: KeyValue, kind: type[Document]) -> Document:
    try:
        return msgspec.json.decode(key.value, type=kind)
    except msgspec.DecodeError as error:
        raise StoreUnavailable(
            f"coordination's key {key.key} can't be read: {error}",
            hint="remove the key: then another is made",
        ) from error


def _text(document: Account | Record | Pair) -> str:
    return msgspec.json.encode(document).decode()
