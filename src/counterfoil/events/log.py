"""The log port: partitioned topics, appended to exactly once, read by whoever keeps a position.

A position is kept by its reader, in the same commit as the effects of what was read: in the
database of a pipeline, in a Delta table. The log itself is never asked how far somebody has come.
"""

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Final, Protocol, runtime_checkable

from counterfoil.events.messages import Batch, Message, Record
from counterfoil.events.shares import ALL, Share
from counterfoil.events.topics import AnyTopic

FETCH_BYTES: Final = 16 * 1024 * 1024
"""Of values, about as much as is fetched at once: a thousand of the largest events would be a
gigabyte, in memory several times over, and in one commit."""
Positions = Callable[[str], Mapping[int, int]]
"""Tells, for a topic, the next offset to be read of each partition.

None means the oldest record that is kept, and 0 the very first: it must be there."""


class Appender(Protocol):
    """One source's way into the log, for one term of its leader.

    Appending and moving the source's position are one step, so that what a source has is in the
    log once, in the source's order.
    """

    position: int
    """Up to where the source has been appended."""

    def append(self, messages: Sequence[Message], position: int) -> None:
        """Append what the source has between its position and the new `position`.

        Raises:
            TermOver: another term has begun (`Fenced`), or nobody knows whether it was appended;
                make a new appender, which does.
            StoreUnavailable: nothing was appended; it may be tried again.
        """
        ...

    def close(self) -> None:
        """End the term."""
        ...


class Reader(Protocol):
    """Reads some topics."""

    exhaustive: bool
    """Whether a fetch that brings nothing of a partition says that there is nothing: on Kafka it
    may be under way."""

    def fetch(self, limit: int) -> list[Batch]:
        """The next records, at most `limit` of each partition; none when there are none yet.

        Of large ones there are fewer, `FETCH_BYTES` about in all.

        Raises:
            LogUnavailable: the log can't be reached, or has lost what comes next.
        """
        ...

    def reached(self, topic: str) -> Mapping[int, int]:
        """Up to where each partition was read, past what no reader is given: markers of Kafka's
        transactions. As far as one of the log's `ends`, all that was there then was fetched."""
        ...

    def rewind(self) -> None:
        """Go back to the positions that are stored: the last batches were not taken in."""
        ...

    def close(self) -> None:
        """Stop reading."""
        ...


class Exchange(Protocol):
    """A pipeline's way from topics to topics, for one term: positions and messages in one commit.

    After any error the term is over: make a new exchange, which knows what was committed.
    """

    positions: dict[tuple[str, int], int]
    """(topic, partition) to the next offset, as committed."""

    def fetch(self, limit: int) -> list[Batch]:
        """The next records, at most `limit` in all; none when there are none yet.

        Raises:
            TermOver: the log can't be reached, or has lost what comes next.
        """
        ...

    def commit(self, batches: Sequence[Batch], messages: Sequence[Message]) -> None:
        """Begin to commit what follows from some batches, after the commit before.

        Raises:
            TermOver: another term has begun (`Fenced`), or an outcome is unknown.
        """
        ...

    def settle(self) -> None:
        """Wait for the commit that has begun.

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
        """Make topics known, and their schemas to their registry.

        Raises:
            EventsError: a topic exists with another number of partitions, which would tear keys.
            IncompatibleSchema: a topic's schema breaks with its last one.
            RegistryUnavailable: the registry can't be reached.
        """
        ...

    def appender(self, source: str, fencing_token: int) -> Appender:
        """Begin a term of appending for `source`; earlier terms are over."""
        ...

    def reader(
        self,
        topics: Sequence[AnyTopic],
        positions: Positions,
        share: Share = ALL,
        *,
        whole: Collection[AnyTopic] = (),
    ) -> Reader:
        """Read a share of `topics`, and all of those that are `whole`, from their positions on."""
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
        """The first record of an event, made not long before `since_us`.

        None if there is none, or none was found in the time that a look may take.
        """
        ...

    def begins(self, topic: AnyTopic) -> dict[int, int]:
        """The offset of each partition's oldest record that is kept, or will be."""
        ...

    def ends(self, topic: str) -> dict[int, int]:
        """The next offset of each partition."""
        ...

    def offsets_at(self, topic: AnyTopic, time_us: int) -> dict[int, int]:
        """The offset of each partition from which on to look for what is of that time or later.

        The embedded log knows the time of the event, Kafka that of the record's arrival.
        """
        ...

    def close(self) -> None:
        """Let go of what is open."""
        ...


@runtime_checkable
class ExchangeLog(EventLog, Protocol):
    """A log with transactions that stateless pipelines can do with alone."""

    def check(self, topic: str) -> None:
        """See that there is a topic, unless nobody answers.

        Raises:
            EventsError: there is none.
        """
        ...

    def exchange(self, consumer: str, topics: Sequence[AnyTopic], share: Share = ALL) -> Exchange:
        """Begin a term of `consumer` over a share of `topics`; earlier terms over it are over."""
        ...
