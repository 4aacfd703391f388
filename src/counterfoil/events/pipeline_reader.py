"""What a pipeline reads: its tables first, then everything.

A process first reads its tables' topics up to their ends at its start, and only then the first
event: so an event never misses a row that was there before the start. From then on, tables and
events are read together; within one fetch, rows come first.
"""

from collections.abc import Sequence
from typing import Final

from counterfoil.events.log import EventLog, Positions, Reader
from counterfoil.events.messages import Batch
from counterfoil.events.shares import ALL, Share
from counterfoil.events.topics import AnyTopic

PATIENCE: Final = 20
"""Empty fetches after which a table counts as read to its end: 2 s on Kafka, where the last offsets
may be transaction markers, which no reader gets."""


class PipelineReader:
    """Reads `tables` and `topics`, each from the position that the pipeline has stored."""

    def __init__(
        self,
        log: EventLog,
        tables: Sequence[AnyTopic],
        topics: Sequence[AnyTopic],
        positions: Positions,
        share: Share = ALL,
    ) -> None:
        self._log = log
        self._tables = tables
        self._positions = positions
        self._share = share
        self._topics = topics
        self._names = {table.name for table in tables}
        self._ends: dict[tuple[str, int], int] | None = None
        """The tables' ends at the start."""
        self._left: dict[tuple[str, int], int] | None = None
        """The ends that are not reached yet; None before the positions are known."""
        self._without = 0
        self.preparing = bool(tables)
        """Whether still only tables are read."""
        self._reader: Reader
        if tables:
            self._reader = log.reader([], positions, share, whole=tables)
        else:
            self._reader = log.reader(topics, positions, share)

    @property
    def exhaustive(self) -> bool:
        """Whether a fetch without records of a partition means that it has no more."""
        return self._reader.exhaustive

    def fetch(self, limit: int) -> list[Batch]:
        """The next records, at most `limit` of each partition, those of tables first.

        Raises:
            LogUnavailable: the log can't be reached, or has lost what comes next.
        """
        if self.preparing:
            batches = self._prepare(limit)
            if batches or self.preparing:
                return batches
        batches = self._reader.fetch(limit)
        if self._names:
            batches.sort(key=lambda batch: batch.topic not in self._names)
        return batches

    def rewind(self) -> None:
        """Go back to the stored positions: the last batches were not committed."""
        self._left = None
        self._reader.rewind()

    def close(self) -> None:
        """Stop reading."""
        self._reader.close()

    def _prepare(self, limit: int) -> list[Batch]:
        if self._ends is None:
            self._ends = {
                (table.name, partition): end
                for table in self._tables
                for partition, end in self._log.ends(table.name).items()
            }
        if self._left is None:
            stored = {table.name: self._positions(table.name) for table in self._tables}
            self._left = {
                (name, partition): end
                for (name, partition), end in self._ends.items()
                if stored[name].get(partition, 0) < end
            }
        batches = self._reader.fetch(limit) if self._left else []
        for batch in batches:
            place = (batch.topic, batch.partition)
            if batch.end >= self._left.get(place, 0):
                self._left.pop(place, None)
        self._without = 0 if batches else self._without + 1
        if not batches and (not self._left or self._reader.exhaustive or self._without >= PATIENCE):
            # The earlier batches are committed by now: the next reader starts after them.
            self._reader.close()
            self._reader = self._log.reader(
                self._topics, self._positions, self._share, whole=self._tables
            )
            self.preparing = False
        return batches
