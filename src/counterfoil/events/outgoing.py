"""The effects of a stateless pipeline's handlers: emitted events only."""

from collections.abc import Callable
from typing import Any, TypeVar

from counterfoil.events.errors import EventsError
from counterfoil.events.handlers import ENDINGS, ended
from counterfoil.events.identity import identity_of
from counterfoil.events.messages import Message, Record
from counterfoil.events.topics import Topic, check_sendable

T = TypeVar("T")


class Outgoing:
    """The messages of a pipeline's current commit: the only effects of a stateless one."""

    def __init__(self, pipeline: str, check: Callable[[str], None] | None = None) -> None:
        """`check` raises if a topic doesn't exist; called at the first message to each."""
        self.pipeline = pipeline
        self.check = check
        self.checked: set[str] = set()
        self.numbers: dict[tuple[object, str], int] = {}
        """Events that each context has emitted to each topic, in the running handler."""
        self._handler: list[Message] = []
        self._commit: list[Message] = []
        self.send: Callable[[Message], None] = self._handler.append
        """Send a message with the commit, unless the running handler fails."""

    def handle(self, work: Callable[..., None], *arguments: Any) -> None:
        """Run a handler; if it raises, its effects are discarded."""
        try:
            work(*arguments)
        except ENDINGS as error:
            self._forget_handler()
            raise ended(error) from error
        except BaseException:
            self._forget_handler()
            raise
        if self._handler:
            self._commit += self._handler
            self._forget_handler()

    def bury(self, message: Message) -> None:
        """Send a dead letter for an event whose handler failed."""
        self._commit.append(message)

    def take(self) -> list[Message]:
        """Remove and return the messages to send."""
        taken, self._commit = self._commit, []
        return taken

    def _forget_handler(self) -> None:
        self._handler.clear()
        self.numbers.clear()


class StatelessContext:
    """What a stateless pipeline's handler may use; takes effect with the event's commit."""

    __slots__ = ("_outgoing", "now_us", "record")
    _part: tuple[object, ...] = ()
    """Tells apart several runs for one event, such as its timers; empty for the event itself."""

    def __init__(self, outgoing: "Outgoing", record: Record, now_us: int) -> None:
        self.record = record
        self.now_us = now_us
        """When the commit began, in microseconds; the same for all of its events."""
        self._outgoing = outgoing

    def emit(self, topic: Topic[T], value: T, *, key: str) -> None:
        """Send an event to another topic; its header `caused-by` is the handled event's id.

        The first event emitted to a topic has this id as its own, too. Further ones to the topic
        have ids derived from it, the same if the event is handled again.

        Raises:
            InvalidEvent: it does not fit its topic, is too large, or has an invalid key.
            EventsError: there is no such topic.
        """
        record, outgoing = self.record, self._outgoing
        if outgoing.check is not None and topic.name not in outgoing.checked:
            outgoing.check(topic.name)
            outgoing.checked.add(topic.name)
        headers = record.headers.copy()
        headers["caused-by"] = str(record.event_id)
        content = topic.encode(value)
        check_sendable(topic, key, content)
        event_id, place = record.event_id, (self, topic.name)
        number = outgoing.numbers.get(place, 0)
        outgoing.numbers[place] = number + 1
        if number or self._part:
            event_id = identity_of(outgoing.pipeline, event_id, topic.name, *self._part, number)
        outgoing.send(Message(event_id, topic.name, key, content, headers, self.now_us))

    def __getattr__(self, name: str) -> object:
        if name in ("state", "ledger", "execute"):
            raise EventsError(
                f"this pipeline is declared stateless and has no {name}",
                hint="leave stateless=True out of its declaration",
            )
        raise AttributeError(name)
