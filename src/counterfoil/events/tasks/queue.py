"""The declaration of a task queue.

A log is for what happened, in order; a queue is for work that any free worker may do. A service or
pipeline sends a task as an event of the queue's own topic, in the commit of the row or event that
it belongs to. The queue's pipeline moves it into a table, once, from which workers take it: a slow
task doesn't delay others.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Generic, Literal, TypeVar, cast

import msgspec

from counterfoil.events.effects import Context
from counterfoil.events.errors import EventsError
from counterfoil.events.handlers import check_handler
from counterfoil.events.pipeline import Pipeline
from counterfoil.events.service_store import Unit
from counterfoil.events.tasks.waiting import LEVELS, Waiting
from counterfoil.events.topics import Topic

T = TypeVar("T")
Priority = Literal["high", "normal", "low"]
PRIORITIES: Final[dict[int, Priority]] = {
    level: cast("Priority", name) for name, level in LEVELS.items()
}
"""By their levels."""

PREFIX: Final = "tasks."
"""Prefix of a queue's topic and consumer; distinguishes its dead letters from pipelines'."""
CONCURRENCY: Final = 8
CONCURRENCY_LIMIT: Final = 4_096
TRIES: Final = 5
BACKOFF_SECONDS: Final = 1.0
BACKOFF_LIMIT_SECONDS: Final = 3_600.0
VISIBILITY_SECONDS: Final = 30.0
"""Length of a lease: how long after a worker's death others get its tasks. Live workers renew it.
"""
LIMIT_SECONDS: Final = 3_600.0
"""How long a task may take: after this, a task that hangs is given to another worker."""
DELAY_LIMIT_SECONDS: Final = 366 * 86_400.0


class Sent(msgspec.Struct, frozen=True):
    """A task on its way to its queue."""

    task: msgspec.Raw
    due_us: int
    """When it may start; 0 means at once."""
    priority: Priority
    unique: str | None


@dataclass
class TaskQueue(Generic[T]):
    """A named queue; `work` does one task."""

    name: str
    type: type[T]
    work: Callable[[T], Any]
    """A function runs in a thread, a coroutine function in an event loop. If the worker dies, the
    task is done again: its external effects must be idempotent."""
    concurrency: int = field(default=CONCURRENCY, kw_only=True)
    tries: int = field(default=TRIES, kw_only=True)
    backoff_seconds: float = field(default=BACKOFF_SECONDS, kw_only=True)
    """Backoff before the second try; doubled for each further one, up to an hour."""
    visibility_seconds: float = field(default=VISIBILITY_SECONDS, kw_only=True)
    limit_seconds: float = field(default=LIMIT_SECONDS, kw_only=True)
    effects: Callable[[T, Any, Context], None] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if not 1 <= self.concurrency <= CONCURRENCY_LIMIT:
            raise EventsError(
                f"{self.name}: concurrency must be 1 to {CONCURRENCY_LIMIT}, not {self.concurrency}"
            )
        if self.tries < 1 or self.visibility_seconds <= 0:
            raise EventsError(f"{self.name}: tries and visibility_seconds must be above 0")
        self.topic = Topic(self.consumer, Sent, partitions=1)

    def then(self, effects: Callable[[T, Any, Context], None]) -> Callable[[T, Any, Context], None]:
        """Declare the effects of a task's result: once, in the commit that acknowledges it."""
        if self.effects is not None:
            raise EventsError(f"{self.name} has two functions for its results", hint="join them")
        check_handler(self.name, effects)
        self.effects = effects
        return effects

    def send(
        self,
        sender: Unit | Context,
        task: T,
        *,
        delay_seconds: float = 0.0,
        priority: Priority = "normal",
        unique: str | None = None,
    ) -> None:
        """Send a task, with the commit of a command or handler.

        A task with a `unique` key is dropped while another with this key waits or is at work.

        Raises:
            EventsError: the delay is negative or longer than a year.
        """
        if not 0 <= delay_seconds <= DELAY_LIMIT_SECONDS:
            raise EventsError(f"a delay of {delay_seconds} s is not between 0 s and a year")
        due_us = sender.now_us + int(delay_seconds * 1_000_000) if delay_seconds else 0
        sent = Sent(msgspec.Raw(msgspec.json.encode(task)), due_us, priority, unique)
        put = sender.publish if isinstance(sender, Unit) else sender.emit
        put(self.topic, sent, key=unique or "")

    @property
    def consumer(self) -> str:
        """The name of its topic, and of its dead letters."""
        return f"{PREFIX}{self.name}"

    def pipeline(self) -> Pipeline[Sent]:
        """The pipeline that moves tasks, and replayed dead letters, from the topic to the table."""
        return Pipeline(self.consumer, self.topic, self._take_over)

    def wait_us(self, attempt: int) -> int:
        """The backoff of a failed task before its next try."""
        doubled = self.backoff_seconds * 2.0 ** min(attempt - 1, 32)
        return int(min(doubled, BACKOFF_LIMIT_SECONDS) * 1_000_000)

    def _take_over(self, sent: Sent, context: Context) -> None:
        msgspec.json.decode(sent.task, type=self.type)  # raises for an invalid task: a dead letter
        Waiting(context, self.name).add(
            bytes(sent.task),
            level=LEVELS[sent.priority],
            visible_us=sent.due_us or context.now_us,
            unique=sent.unique,
        )
