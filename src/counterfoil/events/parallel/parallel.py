"""The declaration of a parallel pipeline.

A plain pipeline handles one event after the other in its commit, which suits handlers that take
microseconds. Here, work that waits (for a bank, a model, another service) runs concurrently,
outside of any transaction, before the commit: at least once. The effects of its result are part of
the commit: exactly once.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Generic, Literal, TypeVar

from counterfoil.events.dead_letters import dead_letter_topic, retry_topic
from counterfoil.events.effects import Context
from counterfoil.events.errors import EventsError
from counterfoil.events.handlers import check_handler
from counterfoil.events.topics import AnyTopic, Topic

T = TypeVar("T")
R = TypeVar("R")
Order = Literal["key", "partition", "none"]

CONCURRENCY: Final = 64
CONCURRENCY_LIMIT: Final = 4_096
"""More threads would need too many stacks; more coroutines would saturate one interpreter."""
WINDOW_EACH: Final = 16
"""Events in memory per concurrent one: how many of one key may wait before other keys run out of
events."""
WINDOW_BYTES: Final = 64 * 1024 * 1024
"""Maximum content in memory, apart from one fetch."""
TRIES: Final = 3
BACKOFF_SECONDS: Final = 0.1


@dataclass
class Parallel(Generic[T, R]):
    """A named pipeline whose `work` is done for up to `concurrency` events at a time."""

    name: str
    source: Topic[T]
    work: Callable[[T], Any]
    """A function runs in a thread, a coroutine function in an event loop. Its result goes to
    `then`. It is repeated after a crash: its external effects must be idempotent."""
    order: Order = field(default="key", kw_only=True)
    """Which events are processed in sequence: those of a key, of a partition, or none."""
    subkey: Callable[[T], str] | None = field(default=None, kw_only=True)
    """Splits a key into virtual partitions: events of equal key and subkey stay in order, those of
    one key with different subkeys don't."""
    concurrency: int = field(default=CONCURRENCY, kw_only=True)
    tries: int = field(default=TRIES, kw_only=True)
    backoff_seconds: float = field(default=BACKOFF_SECONDS, kw_only=True)
    """Backoff before the second try; doubled for each further one."""
    effects: Callable[[T, R, Context], None] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if not 1 <= self.concurrency <= CONCURRENCY_LIMIT:
            raise EventsError(
                f"{self.name}: concurrency must be 1 to {CONCURRENCY_LIMIT}, not {self.concurrency}"
            )
        if self.subkey is not None and self.order != "key":
            raise EventsError(f"{self.name}: a subkey splits keys", hint='use it with order="key"')

    def then(self, effects: Callable[[T, R, Context], None]) -> Callable[[T, R, Context], None]:
        """Declare the effects of the work's result: exactly once, in the order of the work."""
        if self.effects is not None:
            raise EventsError(f"{self.name} has two functions for its results", hint="join them")
        check_handler(self.name, effects)
        self.effects = effects
        return effects

    @property
    def window(self) -> int:
        """Maximum events in memory, even if the first of them isn't done."""
        return self.concurrency * WINDOW_EACH

    @property
    def asynchronous(self) -> bool:
        """Whether the work is a coroutine function."""
        return inspect.iscoroutinefunction(self.work)

    def topics(self) -> list[AnyTopic]:
        """The source, and this pipeline's own topics for retries and dead letters."""
        return [
            self.source,
            self.source.beside(retry_topic(self.name)),
            self.source.beside(dead_letter_topic(self.name)),
        ]
