"""Transactions as operators see them, on either engine.

On Kafka a transaction spans the partitions that a producer writes to, and its coordinator knows
its state. In SQLite there is nothing between committed and not: all that can be seen is who holds
the one write lock of a file.
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
    """Who has it: a producer with its epoch, or a process."""
    age_seconds: float | None
    """Since it began; None when nothing is open, or nobody noted it."""
    timeout_seconds: float | None
    """After which its coordinator aborts it."""
    partitions: list[str]
    """`TOPIC/PARTITION` of what it has written to."""
    producer_id: int | None = None
    producer_epoch: int | None = None


class Hanging(msgspec.Struct, frozen=True):
    """A transaction that is open in a partition, and that no coordinator will ever end.

    Whoever reads what is committed waits in front of it for good.
    """

    partition: str
    first_offset: int
    producer_id: int
    producer_epoch: int
    coordinator_epoch: int
    idle_seconds: float
    """Since its producer has last written to the partition."""


class Transactions(Protocol):
    """Looks at the transactions of an application; each call asks anew.

    Every method raises `LogUnavailable` when the engine does not answer.
    """

    def newest(self, now_us: int) -> list[Transaction]:
        """The newest transaction of each id; `now_us` in microseconds since 1970."""
        ...

    def hanging(self, now_us: int, idle_seconds: float) -> list[Hanging]:
        """Transactions that nobody will end, whose producers have been idle for that long."""
        ...

    def abort(self, identity: str) -> None:
        """End the open transaction of an id, and the term of whoever holds it.

        Raises:
            NoSuchTransaction: nothing of this id is open.
        """
        ...

    def abort_hanging(self, hanging: Hanging) -> None:
        """Write the marker that a partition waits for.

        Raises:
            NoSuchTransaction: it is not open there any more.
        """
        ...
