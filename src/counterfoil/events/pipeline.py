"""The declaration of a pipeline: a named handler of a topic's events."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

import msgspec

from counterfoil.events.dead_letters import STREAM, dead_letter_topic, retry_topic
from counterfoil.events.errors import EventsError
from counterfoil.events.event_time import EventTime
from counterfoil.events.handlers import check_handler
from counterfoil.events.messages import Record
from counterfoil.events.timers import Clock
from counterfoil.events.topics import AnyTopic, Topic

T = TypeVar("T")
BATCH: Final = 1_000


@dataclass(frozen=True)
class Pipeline(Generic[T]):
    """A named handler of a topic's events."""

    name: str
    source: Topic[T]
    handler: Callable[..., None]
    """Called with an event and its context; a batch handler, with a list of such pairs."""
    tries: int = field(default=3, kw_only=True)
    batch: bool = field(default=False, kw_only=True)
    stateless: bool = field(default=False, kw_only=True)
    """Whether the handler only emits: on a log with transactions, no database is then needed."""
    commit_limit: int = field(default=BATCH, kw_only=True)
    """Maximum events of each partition in one commit."""
    timer: Callable[..., None] | None = field(default=None, kw_only=True)
    """Called with a timer and its context, once for each timer that handlers have set."""
    event_time: EventTime[T] | None = field(default=None, kw_only=True)
    """How to tell when events happened; without it, timers use processing time only."""
    tables: Sequence[AnyTopic] = field(default=(), kw_only=True)
    """Topics whose newest event per key is kept, for handlers to look up."""
    joined: AnyTopic | None = field(default=None, kw_only=True)
    """A second topic that the handler processes too, and that the watermark waits for."""
    check: Callable[[], None] | None = field(default=None, kw_only=True)
    """Called before the pipeline runs; raises EventsError if its declaration is incomplete."""

    def __post_init__(self) -> None:
        check_handler(self.name, self.handler, self.timer)
        if self.stateless and (self.timer or self.event_time or self.tables):
            raise EventsError(
                f"{self.name}: timers, event time and tables are state",
                hint="leave stateless=True out of its declaration",
            )
        if self.source.name in [table.name for table in self.tables]:
            raise EventsError(f"{self.name} can't have its source as a table too")
        if self.joined is not None and self.joined.name == self.source.name:
            raise EventsError(
                f"{self.name} can't join {self.source.name} with itself",
                hint="fold its events in a window, or keep one in the state of a pipeline",
            )

    @property
    def sources(self) -> list[AnyTopic]:
        """The topics that the handler processes: the source and the joined topic."""
        return [self.source] if self.joined is None else [self.source, self.joined]

    @property
    def clocks(self) -> frozenset[Clock]:
        """The clocks on which its timers fire."""
        if self.timer is None:
            return frozenset()
        return frozenset({"processing"} if self.event_time is None else {"event", "processing"})

    def check_processes(self, number: int) -> None:
        """Check that it can run in `number` processes, each with a share of the partitions.

        Raises:
            EventsError: it can't; says why.
        """
        if number > 1 and self.joined is not None:
            self._check_co_partitioned(self.joined)
        if number > self.source.partitions:
            raise EventsError(
                f"pipeline {self.name} has more processes than its topic has partitions",
                hint=f"at most {self.source.partitions} would have something to do",
            )
        if number > 1 and self.event_time is not None and self.event_time.advance_when_idle:
            raise EventsError(
                f"pipeline {self.name} has event time that goes on with the clock, and one process "
                "doesn't know for how long another has heard nothing",
                hint="leave advance_when_idle out, or take processes out of "
                f"[pipelines.{self.name}]",
            )

    def stream_of(self, record: Record) -> AnyTopic:
        """The source topic of a record, also of one that came back as a retry or dead letter."""
        joined = self.joined
        if joined is None or record.topic == self.source.name:
            return self.source
        return joined if joined.name in (record.topic, record.headers.get(STREAM)) else self.source

    def buried(self, record: Record) -> Record:
        """The record with its source in a header, as its dead letter must have it."""
        stream = self.stream_of(record)
        if stream is self.source:
            return record
        return msgspec.structs.replace(record, headers={**record.headers, STREAM: stream.name})

    def _check_co_partitioned(self, joined: AnyTopic) -> None:
        """Check for equal partition counts, so that one process gets all events of a key."""
        if joined.partitions != self.source.partitions:
            raise EventsError(
                f"pipeline {self.name} joins {self.source.name} with {self.source.partitions} "
                f"partitions and {joined.name} with {joined.partitions}: events of a key would "
                "come to different processes",
                hint="declare both topics with one number of partitions, or take processes out of "
                f"[pipelines.{self.name}]",
            )

    def topics(self) -> list[AnyTopic]:
        """The source, and this pipeline's own topics for retries and dead letters."""
        return [
            self.source,
            self.source.beside(retry_topic(self.name)),
            self.source.beside(dead_letter_topic(self.name)),
        ]
