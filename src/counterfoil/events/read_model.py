"""Read your writes: a bounded wait for a read model to catch up.

A pipeline updates a read model asynchronously, shortly after the write. A reader passes the token
of the write's response, and waits until the pipeline's positions are past the events that it names.
Reads without a token don't wait.
"""

import time
from collections.abc import Callable
from typing import Any, Final

import msgspec

from counterfoil.events.consistency import Write, writes_of
from counterfoil.events.errors import NotCaughtUp
from counterfoil.events.log import EventLog
from counterfoil.events.parallel.parallel import Parallel
from counterfoil.events.pipeline import Pipeline
from counterfoil.events.pipeline_store import PipelineStore
from counterfoil.events.terms import shares_of
from counterfoil.events.topics import AnyTopic

POLL_SECONDS: Final = 0.005
FIND_SECONDS: Final = 0.05
"""Interval of searches in the log, which cost more than reading a position."""
LOOK_SECONDS: Final = 2.0
"""Limit on one search: a token is untrusted, and may name an event that never existed."""


class CaughtUp(msgspec.Struct, frozen=True):
    """The result of waiting for a read model."""

    waited_seconds: float
    events: int
    """The token's events that the pipeline reads."""


class ReadModel:
    """The read model of one pipeline; for one thread at a time."""

    def __init__(
        self,
        log: EventLog,
        store: PipelineStore,
        pipeline: Pipeline[Any] | Parallel[Any, Any],
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._log = log
        self._store = store
        self._name = pipeline.name
        parallel = isinstance(pipeline, Parallel)
        sources = [pipeline.source] if parallel else pipeline.sources
        tables = () if parallel else pipeline.tables
        self._sources: list[AnyTopic] = sources
        self._read: dict[str, AnyTopic] = {each.name: each for each in (*tables, *sources)}
        self._clock = clock
        self._sleep = sleep

    def await_caught_up(self, token: str, timeout_seconds: float) -> CaughtUp:
        """Wait until the pipeline has handled the events of a token.

        For a topic that it keeps as a table, waits for the copies of all its processes.

        On Kafka, finding an event takes some tens of milliseconds: its partition is searched from
        the event's time on.

        Raises:
            NotCaughtUp: not in time; tells how many events the pipeline is behind.
            BadToken: not a token of a write.
            StoreUnavailable, LogUnavailable: the database or the log can't be used.
        """
        began = self._clock()
        writes = [write for write in writes_of(token) if write.topic in self._read]
        for write in writes:
            while not self._handled(write, began + timeout_seconds):
                if self._clock() - began >= timeout_seconds:
                    raise NotCaughtUp(
                        f"{self._name} has not handled event {write.event_id} of {write.topic} "
                        f"after {timeout_seconds} s; it is {self.lag()} events behind",
                        hint="show what is there as not current yet, or ask again",
                    )
                self._sleep(FIND_SECONDS)
        return CaughtUp(self._clock() - began, len(writes))

    def lag(self) -> int:
        """How many events of its sources the pipeline has not handled yet."""
        return sum(self._lag(source) for source in self._sources)

    def _lag(self, source: AnyTopic) -> int:
        positions = self._store.positions(self._name, source.name)
        ends = self._log.ends(source.name)
        return sum(max(end - positions.get(partition, 0), 0) for partition, end in ends.items())

    def _handled(self, write: Write, deadline: float) -> bool:
        """Whether an event was handled by the deadline; False at once if it isn't in the log."""
        topic = self._read[write.topic]
        record = self._log.find(
            topic, write.event_id, write.key, write.at_us, within_seconds=LOOK_SECONDS
        )
        if record is None:
            return False
        while True:
            if all(
                self._store.positions(consumer, topic.name).get(record.partition, 0) > record.offset
                for consumer in self._consumers(topic)
            ):
                return True
            if self._clock() >= deadline:
                return False
            self._sleep(POLL_SECONDS)

    def _consumers(self, topic: AnyTopic) -> list[str]:
        """The consumers with positions in a topic: of a table, each process with its own copy."""
        if topic in self._sources:
            return [self._name]
        shares = shares_of(self._store.database, self._name)
        return [f"{self._name}{share.name}" for share in shares]
