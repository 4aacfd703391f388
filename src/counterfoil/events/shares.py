"""Static assignment of partitions to a pipeline's processes.

A consumer group rebalances whenever a member joins or leaves, which pauses all of them; static
members avoid that only if a restart takes less than the session timeout. Here process n of m owns
the partitions whose number modulo m is n. So a restart, however long, moves no partitions and
doesn't affect the other processes; its own partitions wait. A replaced process is fenced by the
transactional id of its share. Another number of processes is another layout, whose processes fence
those of all layouts before it.
"""

import math
import re
from typing import Final, NamedTuple


class Share(NamedTuple):
    """The share of process `number`, counted from 0, of `of` processes."""

    number: int
    of: int

    def has(self, partition: int) -> bool:
        """Whether it contains a partition."""
        return partition % self.of == self.number

    def overlaps(self, other: "Share") -> bool:
        """Whether both could contain the same partition."""
        return (self.number - other.number) % math.gcd(self.of, other.of) == 0

    @property
    def all(self) -> "list[Share]":
        """The shares of all `of` processes."""
        return [Share(number, self.of) for number in range(self.of)]

    @property
    def name(self) -> str:
        """Suffix of its names and transactional id; empty for a single process."""
        return "" if self.of == 1 else f".{self.number}-of-{self.of}"


ALL: Final = Share(0, 1)
_NAMED: Final = re.compile(r"(.*)\.\d+-of-\d+")


def whole(consumer: str) -> str:
    """A consumer's name without the suffix of a share."""
    share = _NAMED.fullmatch(consumer)
    return consumer if share is None else share[1]
