"""The history of one topic's clients: transactions of sends and polls, and the final topic.

Every value is sent once in a history, so a value that was read identifies the transaction that
wrote it.
"""

from typing import Literal

import msgspec


class Place(msgspec.Struct, frozen=True, array_like=True):
    """A record: its offset in a partition, and its value."""

    partition: int
    offset: int
    value: int


class Send(msgspec.Struct, frozen=True, tag="send"):
    """A value sent to a partition; `offset` is the broker's acknowledgment, if there was one."""

    partition: int
    value: int
    offset: int | None = None


class Poll(msgspec.Struct, frozen=True, tag="poll"):
    """The records of one poll, in their order."""

    records: tuple[Place, ...]


class Transaction(msgspec.Struct, frozen=True):
    """A client's actions between begin and end."""

    client: int
    outcome: Literal["committed", "aborted", "unknown"]
    """`unknown`: the client got no answer that tells."""
    actions: tuple[Send | Poll, ...]
    placed: bool = False
    """Whether the client was repositioned, before this transaction's polls, to the end of its last
    committed transaction, like a consumer that takes over a partition."""


class History(msgspec.Struct, frozen=True):
    """All transactions, in order for each client, and a final read of everything committed."""

    transactions: tuple[Transaction, ...]
    final: tuple[Place, ...]
