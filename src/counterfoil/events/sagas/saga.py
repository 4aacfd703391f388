"""The declaration of a saga: steps in order, each with its compensation.

A saga (Garcia-Molina and Salem, 1987) is a transaction across several owners of data that can't
share one: each step commits by itself, and if a step fails, the compensations of the steps before
it run in reverse order. A step either runs here, in the commit that records its outcome, or sends
a request by an event and waits for the answer. The declaration starts nothing.
"""

import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from types import NoneType
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from counterfoil.events.dead_letters import dead_letter_topic, retry_topic
from counterfoil.events.errors import EventsError
from counterfoil.events.handlers import check_handler
from counterfoil.events.topics import AnyTopic, Topic

if TYPE_CHECKING:
    from counterfoil.events.sagas.context import StepContext

T = TypeVar("T")
Q = TypeVar("Q")
R = TypeVar("R")
Handler = Callable[[T, "StepContext"], R]

TRIES: Final = 5
TRIES_LIMIT: Final = 100
"""Each try is a line of the timeline, which must stay readable."""
BACKOFF_SECONDS: Final = 0.2
BACKOFF_LIMIT_SECONDS: Final = 60.0
RETENTION_SECONDS: Final = 30 * 86_400.0
"""How long a saga is kept after it has ended: 30 days."""


class StepFailed(Exception):
    """Raised by a step that can't succeed: the saga compensates at once, without retries."""


@dataclass(frozen=True)
class Ask(Generic[Q, R]):
    """A request topic, the topic of its answer, and how long the answer may take."""

    request: Topic[Q]
    answer: Topic[R]
    timeout_seconds: float


@dataclass(frozen=True)
class Action:
    """One direction of a step: its handler, its number of tries, and its request if it has one."""

    handler: Callable[[Any, "StepContext"], Any]
    tries: int
    backoff_seconds: float
    ask: Ask[Any, Any] | None = None

    def __post_init__(self) -> None:
        check_handler("a saga's step", self.handler)
        if not 1 <= self.tries <= TRIES_LIMIT:
            raise EventsError(f"tries must be between 1 and {TRIES_LIMIT}, not {self.tries}")

    def wait_us(self, tries: int) -> int:
        """The backoff after `tries` failed tries: doubled each time, up to a minute."""
        doubled = self.backoff_seconds * 2.0 ** min(tries - 1, 32)
        return int(min(doubled, BACKOFF_LIMIT_SECONDS) * 1_000_000)


@dataclass
class Step(Generic[T, R]):
    """One step; `R` is the result that later steps may use: its return value, or its answer."""

    name: str
    do: Action
    result: Any
    """The type of `R`, for decoding."""
    undo: Action | None = field(default=None, init=False)
    check: "Callable[[T, R, StepContext], None] | None" = field(default=None, init=False)

    def compensate(
        self, *, tries: int = TRIES, backoff_seconds: float = BACKOFF_SECONDS
    ) -> Callable[[Handler[T, None]], Handler[T, None]]:
        """Declare the compensation of this step.

        It takes effect once for a step that was done. It also runs for a step whose request was not
        answered in time: whether that was done is unknown, so the compensation must handle both
        cases.
        """

        def declare(handler: Handler[T, None]) -> Handler[T, None]:
            self._take(Action(handler, tries, backoff_seconds))
            return handler

        return declare

    def compensate_by_asking(
        self,
        request: Topic[Q],
        answer: AnyTopic,
        *,
        timeout_seconds: float,
        tries: int = TRIES,
        backoff_seconds: float = BACKOFF_SECONDS,
    ) -> Callable[[Handler[T, Q]], Handler[T, Q]]:
        """Declare a compensation by an event, and the event that confirms it.

        Without an answer, the request is sent again with the same event id, up to `tries` times.
        """

        def declare(handler: Handler[T, Q]) -> Handler[T, Q]:
            asking = Ask(request, answer, timeout_seconds)
            self._take(Action(handler, tries, backoff_seconds, asking))
            return handler

        return declare

    def answered(
        self, check: "Callable[[T, R, StepContext], None]"
    ) -> "Callable[[T, R, StepContext], None]":
        """Declare a check of the answer; it raises `StepFailed` if the request was refused."""
        if self.do.ask is None:
            raise EventsError(f"step {self.name} asks nobody", hint="declare it with saga.ask")
        check_handler(self.name, check)
        self.check = check
        return check

    def _take(self, action: Action) -> None:
        if self.undo is not None:
            raise EventsError(f"step {self.name} has two compensations", hint="join them")
        self.undo = action


@dataclass
class Saga(Generic[T]):
    """A named saga; each event of `source` starts an instance with the event's id."""

    name: str
    source: Topic[T]
    timeout_seconds: float | None = field(default=None, kw_only=True)
    """An instance that isn't completed in this time compensates; None leaves it to the steps."""
    retention_seconds: float = field(default=RETENTION_SECONDS, kw_only=True)
    steps: list[Step[T, Any]] = field(default_factory=list[Step[T, Any]], init=False)

    def step(
        self, *, tries: int = TRIES, backoff_seconds: float = BACKOFF_SECONDS
    ) -> Callable[[Handler[T, R]], Step[T, R]]:
        """Declare a step that runs here, in the commit that records its outcome.

        What it returns (a `msgspec.Struct`, or None) is stored for later steps. Errors are retried
        with exponential backoff; after the last try, or at once after `StepFailed`, the saga
        compensates.
        """

        def declare(handler: Handler[T, R]) -> Step[T, R]:
            returned = typing.get_type_hints(handler).get("return", NoneType)
            return self._add(
                Step(_name(handler), Action(handler, tries, backoff_seconds), returned)
            )

        return declare

    def ask(
        self,
        request: Topic[Q],
        answer: Topic[R],
        *,
        timeout_seconds: float,
        tries: int = TRIES,
        backoff_seconds: float = BACKOFF_SECONDS,
    ) -> Callable[[Handler[T, Q]], Step[T, R]]:
        """Declare a step that sends an event and waits for the event that answers it.

        The handler returns the event to send. The pipeline that handles it answers with
        `context.emit`, which keeps the headers that correlate the answer. The log loses nothing, so
        a request is sent once; without an answer in time the saga compensates.
        """

        def declare(handler: Handler[T, Q]) -> Step[T, R]:
            asking = Ask(request, answer, timeout_seconds)
            action = Action(handler, tries, backoff_seconds, asking)
            return self._add(Step(_name(handler), action, answer.type))

        return declare

    @property
    def consumer(self) -> str:
        """The name under which its positions and dead letters are stored."""
        return f"saga.{self.name}"

    def answers(self) -> list[AnyTopic]:
        """The topics of its steps' answers."""
        actions = [action for step in self.steps for action in (step.do, step.undo) if action]
        return list({action.ask.answer: None for action in actions if action.ask})

    def requests(self) -> list[AnyTopic]:
        """The topics of its steps' requests."""
        actions = [action for step in self.steps for action in (step.do, step.undo) if action]
        return list({action.ask.request: None for action in actions if action.ask})

    def own_topics(self) -> list[AnyTopic]:
        """This saga's own topics: its retries and its dead letters."""
        return [
            self.source.beside(retry_topic(self.consumer)),
            self.source.beside(dead_letter_topic(self.consumer)),
        ]

    def _add(self, step: Step[T, R]) -> Step[T, R]:
        if any(known.name == step.name for known in self.steps):
            raise EventsError(
                f"saga {self.name} has two steps {step.name!r}", hint="rename a handler"
            )
        self.steps.append(step)
        return step


def _name(handler: Callable[..., object]) -> str:
    return getattr(handler, "__name__", type(handler).__name__)
