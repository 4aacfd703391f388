"""Static assignment of partitions to a pipeline's processes.

A consumer group deals partitions out anew whenever a member comes or goes, and stops all of them
for it; static members are spared that for as long as a restart takes less than a session. Here a
process owns the partitions whose numbers leave its own when divided by the number of processes. So
a restart moves nothing, however long it takes, and the others don't notice; its partitions wait.
Who was replaced is fenced by the transactional id of the share. Another number of processes is
another layout, whose processes fence those of all layouts before it.
"""

import math
import re
from typing import Final, NamedTuple


class Share(NamedTuple):
    """The part of process `number`, from 0 on, of so many in all."""

    number: int
    of: int

    def has(self, partition: int) -> bool:
        """Whether a partition belongs to it."""
        return partition % self.of == self.number

    def overlaps(self, other: "Share") -> bool:
        """Whether any partition could belong to both."""
        return (self.number - other.number) % math.gcd(self.of, other.of) == 0

    @property
    def all(self) -> "list[Share]":
        """The shares of all processes, when there are so many."""
        return [Share(number, self.of) for number in range(self.of)]

    @property
    def name(self) -> str:
        """What tells its transactional id from others' of the same pipeline; nothing if alone."""
        return "" if self.of == 1 else f".{self.number}-of-{self.of}"


ALL: Final = Share(0, 1)
_NAMED: Final = re.compile(r"(.*)\.\d+-of-\d+")


def whole(consumer: str) -> str:
    """The pipeline that a consumer is, or is a share of."""
    share = _NAMED.fullmatch(consumer)
    return consumer if share is None else share[1]
