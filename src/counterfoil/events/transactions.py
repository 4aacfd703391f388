"""Transactions, for operators, on either engine.

On Kafka a transaction spans the partitions that a producer writes to, and its coordinator knows its
state. In SQLite only the holder of a file's write lock is visible.
"""

from typing import Literal, Protocol

import msgspec

State = Literal["open", "committing", "aborting", "committed", "aborted", "empty", "dead"]
UNFINISHED: frozenset[State] = frozenset({"open", "committing", "aborting"})


class Transaction(msgspec.Struct, frozen=True):
    """The newest transaction of one id."""

    id: str
    """A transactional id, or the file whose write lock is held."""
    state: State
    holder: str
    """A producer with its epoch, or a process."""
    age_seconds: float | None
    """Time since it began; None if nothing is open, or if unknown."""
    timeout_seconds: float | None
    """The timeout after which its coordinator aborts it."""
    partitions: list[str]
    """The partitions that it has written to, as `TOPIC/PARTITION`."""
    producer_id: int | None = None
    producer_epoch: int | None = None


class Hanging(msgspec.Struct, frozen=True):
    """A transaction that is open in a partition, and that no coordinator will ever end.

    It blocks all readers of committed records.
    """

    partition: str
    first_offset: int
    producer_id: int
    producer_epoch: int
    coordinator_epoch: int
    idle_seconds: float
    """Time since its producer has last written to the partition."""


class Transactions(Protocol):
    """The transactions of an application; each call queries the engine.

    Every method raises `LogUnavailable` if the engine does not answer.
    """

    def newest(self, now_us: int) -> list[Transaction]:
        """The newest transaction of each id; `now_us` in microseconds since 1970."""
        ...

    def hanging(self, now_us: int, idle_seconds: float) -> list[Hanging]:
        """Hanging transactions whose producers have been idle for `idle_seconds`."""
        ...

    def abort(self, identity: str) -> None:
        """Abort the open transaction of an id, and fence its holder.

        Raises:
            NoSuchTransaction: nothing of this id is open.
        """
        ...

    def abort_hanging(self, hanging: Hanging) -> None:
        """Write the abort marker for a hanging transaction.

        Raises:
            NoSuchTransaction: it is not open there any more.
        """
        ...
