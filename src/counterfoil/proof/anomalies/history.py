"""The history of one topic's clients: transactions of sends and polls, and the final topic.

Every value is sent once in a history, so a value that is read names the transaction that wrote it.
"""

from typing import Literal

import msgspec


class Place(msgspec.Struct, frozen=True, array_like=True):
    """A record: where it stands, and its value."""

    partition: int
    offset: int
    value: int


class Send(msgspec.Struct, frozen=True, tag="send"):
    """A value for a partition; `offset` is where the broker said that it stands, if it did."""

    partition: int
    value: int
    offset: int | None = None


class Poll(msgspec.Struct, frozen=True, tag="poll"):
    """The records that one poll gave, in the order in which it gave them."""

    records: tuple[Place, ...]


class Transaction(msgspec.Struct, frozen=True):
    """What one client did between begin and end."""

    client: int
    outcome: Literal["committed", "aborted", "unknown"]
    """`unknown`: the client got no answer that says."""
    actions: tuple[Send | Poll, ...]
    placed: bool = False
    """Whether the client was put, before this transaction's polls, to where its last committed
    transaction had ended, as a consumer is that takes a partition over."""


class History(msgspec.Struct, frozen=True):
    """All transactions, each client's in its own order, and a last read of everything committed."""

    transactions: tuple[Transaction, ...]
    final: tuple[Place, ...]
