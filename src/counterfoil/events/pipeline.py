"""The declaration of a pipeline: a named handler of a topic's events."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from counterfoil.events.dead_letters import dead_letter_topic, retry_topic
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

    def topics(self) -> list[AnyTopic]:
        """The source, and what belongs to this pipeline alone: its retries and dead letters."""
        return [
            self.source,
            self.source.beside(retry_topic(self.name)),
            self.source.beside(dead_letter_topic(self.name)),
        ]
