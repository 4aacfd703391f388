"""The log's interface: partitioned topics, appended to exactly once, read from positions.

Each reader stores its position itself, in the same commit as the effects of what it read: in a
pipeline's database, or in a Delta table. The log stores no reader's position.
"""

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Final, Protocol, runtime_checkable

from counterfoil.events.messages import Batch, Message, Record
from counterfoil.events.shares import ALL, Share
from counterfoil.events.topics import AnyTopic

FETCH_BYTES: Final = 16 * 1024 * 1024
"""Approximate limit on the values of one fetch. Without it, a thousand of the largest events would
put a gigabyte into one commit, and several times that into memory."""
Positions = Callable[[str], Mapping[int, int]]
"""Returns the next offset to read of each of a topic's partitions.

A partition that is missing starts at the oldest retained record; 0 means the very first record,
which must still exist."""


class Appender(Protocol):
    """Appends one source's messages, for one term of its leader.

    Appending and advancing the source's position are atomic, so each message is in the log once,
    in the source's order.
    """

    position: int
    """The position up to which the source has been appended."""

    def append(self, messages: Sequence[Message], position: int) -> None:
        """Append what the source has between its position and the new `position`.

        Raises:
            TermOver: another term has begun (`Fenced`), or the outcome is unknown; a new appender
                finds it out.
            StoreUnavailable: nothing was appended; try again.
        """
        ...

    def close(self) -> None:
        """End the term."""
        ...


class Reader(Protocol):
    """Reads some topics."""

    exhaustive: bool
    """Whether a fetch without records of a partition means that it has no more. On Kafka it
    doesn't: records may still be in flight."""

    def fetch(self, limit: int) -> list[Batch]:
        """The next records, at most `limit` of each partition and about `FETCH_BYTES` in all.

        Empty if there are none yet.

        Raises:
            LogUnavailable: the log can't be reached, or has lost what comes next.
        """
        ...

    def reached(self, topic: str) -> Mapping[int, int]:
        """The offset up to which each partition was read, including Kafka's transaction markers,
        which no reader gets. Once it reaches one of the log's `ends`, all before that end was
        fetched."""
        ...

    def rewind(self) -> None:
        """Go back to the stored positions: the last batches were not committed."""
        ...

    def close(self) -> None:
        """Stop reading."""
        ...


class Exchange(Protocol):
    """One term of a pipeline from topics to topics: commits positions and messages together.

    Any error ends the term: make a new exchange, which finds out what was committed.
    """

    positions: dict[tuple[str, int], int]
    """(topic, partition) to the next offset, as committed."""

    def fetch(self, limit: int) -> list[Batch]:
        """The next records, at most `limit` in all; empty if there are none yet.

        Raises:
            TermOver: the log can't be reached, or has lost what comes next.
        """
        ...

    def commit(self, batches: Sequence[Batch], messages: Sequence[Message]) -> None:
        """Begin to commit batches and the messages that result, after the previous commit.

        Raises:
            TermOver: another term has begun (`Fenced`), or an outcome is unknown.
        """
        ...

    def settle(self) -> None:
        """Wait for the commit in progress.

        Raises:
            TermOver: another term has begun (`Fenced`), or the outcome is unknown.
        """
        ...

    def close(self) -> None:
        """End the term."""
        ...


class EventLog(Protocol):
    """Partitioned topics."""

    def declare(self, topics: Iterable[AnyTopic]) -> None:
        """Create missing topics, and register their schemas.

        Raises:
            EventsError: a topic exists with another number of partitions.
            IncompatibleSchema: a topic's schema is incompatible with its last one.
            RegistryUnavailable: the registry can't be reached.
        """
        ...

    def appender(self, source: str, fencing_token: int) -> Appender:
        """Begin a term of appending for `source`, which ends earlier ones."""
        ...

    def reader(
        self,
        topics: Sequence[AnyTopic],
        positions: Positions,
        share: Share = ALL,
        *,
        whole: Collection[AnyTopic] = (),
    ) -> Reader:
        """Read a share of `topics` and all partitions of `whole`, from their positions."""
        ...

    def find(
        self,
        topic: AnyTopic,
        event_id: int,
        key: str,
        since_us: int,
        *,
        within_seconds: float = math.inf,
    ) -> Record | None:
        """The first record of an event that was created at `since_us` or shortly before.

        None if there is none, or none was found within `within_seconds`.
        """
        ...

    def begins(self, topic: AnyTopic) -> dict[int, int]:
        """The offset of each partition's oldest retained record, or of its next if it has none."""
        ...

    def ends(self, topic: str) -> dict[int, int]:
        """The next offset of each partition."""
        ...

    def offsets_at(self, topic: AnyTopic, time_us: int) -> dict[int, int]:
        """The offset of each partition from which to look for records of that time or later.

        The embedded log compares the event's time, Kafka the time at which it was appended.
        """
        ...

    def close(self) -> None:
        """Close what is open."""
        ...


@runtime_checkable
class ExchangeLog(EventLog, Protocol):
    """A log with transactions, which stateless pipelines can use without a database."""

    def check(self, topic: str) -> None:
        """Check that a topic exists; passes if no broker answers.

        Raises:
            EventsError: it doesn't exist.
        """
        ...

    def exchange(self, consumer: str, topics: Sequence[AnyTopic], share: Share = ALL) -> Exchange:
        """Begin a term of `consumer` over a share of `topics`, which ends earlier ones over it."""
        ...
