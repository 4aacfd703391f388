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
    """Takes an event and its context; a batch handler takes a list of such pairs."""
    tries: int = field(default=3, kw_only=True)
    batch: bool = field(default=False, kw_only=True)
    stateless: bool = field(default=False, kw_only=True)
    """Its handler only emits, so that a log with transactions can do without the database."""
    commit_limit: int = field(default=BATCH, kw_only=True)
    """How many events of each partition one commit takes at most."""
    timer: Callable[..., None] | None = field(default=None, kw_only=True)
    """Takes a timer and its context, once for each timer that handlers have set."""
    event_time: EventTime[T] | None = field(default=None, kw_only=True)
    """When its events happened; without it there are timers of processing time alone."""
    tables: Sequence[AnyTopic] = field(default=(), kw_only=True)
    """Topics of which the newest event of each key is kept, for handlers to look up."""
    joined: AnyTopic | None = field(default=None, kw_only=True)
    """A second topic, whose events the handler takes as well, and the watermark waits for."""
    check: Callable[[], None] | None = field(default=None, kw_only=True)
    """Raises EventsError if what was declared is not whole; asked before it runs."""

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
        """The topics whose events the handler takes: the source, and what is joined with it."""
        return [self.source] if self.joined is None else [self.source, self.joined]

    @property
    def clocks(self) -> frozenset[Clock]:
        """The clocks on which its timers fire."""
        if self.timer is None:
            return frozenset()
        return frozenset({"processing"} if self.event_time is None else {"event", "processing"})

    def check_processes(self, number: int) -> None:
        """See that it can run in so many processes, each with a share of the partitions.

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
        """The topic that a record is an event of: its own, or a dead letter's that comes back."""
        joined = self.joined
        if joined is None or record.topic == self.source.name:
            return self.source
        return joined if joined.name in (record.topic, record.headers.get(STREAM)) else self.source

    def buried(self, record: Record) -> Record:
        """A record in the shape of a dead letter, which knows of which source it is."""
        stream = self.stream_of(record)
        if stream is self.source:
            return record
        return msgspec.structs.replace(record, headers={**record.headers, STREAM: stream.name})

    def _check_co_partitioned(self, joined: AnyTopic) -> None:
        """See that a key's events are in partitions of one number, and so in one process."""
        if joined.partitions != self.source.partitions:
            raise EventsError(
                f"pipeline {self.name} joins {self.source.name} with {self.source.partitions} "
                f"partitions and {joined.name} with {joined.partitions}: events of a key would "
                "come to different processes",
                hint="declare both topics with one number of partitions, or take processes out of "
                f"[pipelines.{self.name}]",
            )

    def topics(self) -> list[AnyTopic]:
        """The source, and what belongs to this pipeline alone: its retries and dead letters."""
        return [
            self.source,
            self.source.beside(retry_topic(self.name)),
            self.source.beside(dead_letter_topic(self.name)),
        ]
