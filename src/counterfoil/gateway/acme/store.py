"""The port: what is known of certificates, and whose turn it is to order.

A name has one record, which is replaced whole: a certificate never stands beside another's key, and
an order that is under way is found again by whoever goes on with it. A record is written after the
one that its writer has seen, so a gateway that was paused in its turn overwrites nothing.
"""

import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Protocol

import msgspec

from counterfoil.gateway.acme.pairs import Pair


class Account(msgspec.Struct, frozen=True):
    """Who we are to a directory. Holds the account's private key."""

    directory: str
    credentials: str


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a name stands: its certificate, and the order that is under way. Holds private keys.

    Times are in seconds since 1970.
    """

    pair: Pair | None = None
    directory: str = ""
    """That has issued the certificate."""
    issued_at: float = 0.0
    renew_at: float = 0.0
    window: tuple[float, float] | None = None
    """For the renewal, as the directory suggests it."""
    ask_at: float = 0.0
    """When to ask the directory about that again."""
    order: str = ""
    """The URL of an order that may be gone on with; empty for none."""
    order_key: str = ""
    """The private key that its certificate will have."""
    order_directory: str = ""
    failures: int = 0
    """Of tries, in a row."""
    try_at: float = 0.0
    """Not before that it is tried again."""
    trouble: str = ""
    """Why the last try failed."""


class Held(msgspec.Struct, frozen=True):
    """A record, and which one it is in the order in which they were written."""

    record: Record
    revision: int


class View(msgspec.Struct, frozen=True):
    """All that is known, by name."""

    held: Mapping[str, Held]
    challenges: Mapping[str, Pair]
    """What the directory is to see at the moment, at each gateway."""


class Term(Protocol):
    """A turn to order."""

    def held(self) -> bool:
        """Whether the turn can't have ended yet."""
        ...

    def resign(self) -> None:
        """End the turn."""
        ...


class Store(Protocol):
    """What is known. May be used by several threads.

    Raises (from each verb but `listen` and `follow`):
        StoreUnavailable: it can't be read or written now.
    """

    def load(self) -> View:
        """All that is known now."""
        ...

    def listen(self, changed: Callable[[View], None]) -> None:
        """Say once, before all else, who is called after each change, whoever made it.

        What `changed` was told of is shown to clients and directories when it returns.
        """
        ...

    def follow(self, stop: threading.Event) -> None:
        """Look for what others change, until `stop` is set."""
        ...

    def campaign(self, stop: threading.Event) -> Term | None:
        """Wait for the turn to order; None once `stop` is set."""
        ...

    def keep(self, host: str, record: Record, after: Held | None) -> Held:
        """Write a record after the one that was seen.

        Raises:
            Superseded: somebody else has written one meanwhile.
        """
        ...

    def account(self) -> Account | None:
        """The account, if there is one."""
        ...

    def keep_account(self, account: Account) -> None:
        """Write the account."""
        ...

    def shown(self, host: str, proof: Pair) -> AbstractContextManager[None]:
        """A proof that every gateway shows while the block runs."""
        ...
