"""The port for the state of certificates, and for whose turn it is to order.

Each host has one record, which is replaced as a whole: a certificate is never stored with another's
key, and any process can continue an order under way. A write is conditional on the record that its
writer has read, so a gateway that was paused during its term overwrites nothing.
"""

import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Protocol

import msgspec

from counterfoil.gateway.acme.pairs import Pair


class Account(msgspec.Struct, frozen=True):
    """An account at a directory. Contains its private key."""

    directory: str
    credentials: str


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A host's certificate, and the order under way. Contains private keys.

    Times are in seconds since 1970.
    """

    pair: Pair | None = None
    directory: str = ""
    """The directory that issued the certificate."""
    issued_at: float = 0.0
    renew_at: float = 0.0
    window: tuple[float, float] | None = None
    """The renewal window that the directory suggested."""
    ask_at: float = 0.0
    """When to query the renewal window again."""
    order: str = ""
    """The URL of an order to continue; empty for none."""
    order_key: str = ""
    """The private key of its certificate."""
    order_directory: str = ""
    failures: int = 0
    """Failed attempts in a row."""
    try_at: float = 0.0
    """When to try again at the earliest."""
    trouble: str = ""
    """The error of the last attempt."""


class Held(msgspec.Struct, frozen=True):
    """A record and its revision."""

    record: Record
    revision: int


class View(msgspec.Struct, frozen=True):
    """The whole state, by host."""

    held: Mapping[str, Held]
    challenges: Mapping[str, Pair]
    """The challenge certificates that every gateway publishes at the moment."""


class Term(Protocol):
    """A term as the gateway that orders."""

    def held(self) -> bool:
        """Whether the term can't have ended yet."""
        ...

    def resign(self) -> None:
        """End the term."""
        ...


class Store(Protocol):
    """The stored state. Thread-safe.

    Raises (from each verb but `listen` and `follow`):
        StoreUnavailable: it can't be read or written now.
    """

    def load(self) -> View:
        """The current state."""
        ...

    def listen(self, changed: Callable[[View], None]) -> None:
        """Set, once and before all else, the callback for changes by any gateway.

        When `changed` returns, the state it was given is published.
        """
        ...

    def follow(self, stop: threading.Event) -> None:
        """Watch for changes by other gateways, until `stop` is set."""
        ...

    def campaign(self, stop: threading.Event) -> Term | None:
        """Wait for a term; None once `stop` is set."""
        ...

    def keep(self, host: str, record: Record, after: Held | None) -> Held:
        """Write a record, unless it has changed since `after` was read.

        Raises:
            Superseded: it has.
        """
        ...

    def account(self) -> Account | None:
        """The account, if there is one."""
        ...

    def keep_account(self, account: Account) -> None:
        """Write the account."""
        ...

    def shown(self, host: str, proof: Pair) -> AbstractContextManager[None]:
        """Publish a challenge certificate at every gateway while the block runs."""
        ...
