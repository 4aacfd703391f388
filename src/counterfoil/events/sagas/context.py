"""The context of a saga step; its effects commit with the step's outcome."""

from typing import Any, TypeVar

from counterfoil.events.effects import Context, Effects
from counterfoil.events.errors import EventsError
from counterfoil.events.identity import identity_of
from counterfoil.events.messages import Message
from counterfoil.events.sagas.instances import Direction, Instance, Instances
from counterfoil.events.sagas.saga import Step
from counterfoil.events.topics import Topic, check_sendable

T = TypeVar("T")
R = TypeVar("R")


class StepContext(Context):
    """The context of one try of a step, or of its compensation.

    `record` is the event that started the saga; `state` is shared by all instances of the saga.
    """

    __slots__ = ("_instance", "_instances", "_parts", "_sent", "saga_id")

    def __init__(
        self,
        effects: Effects,
        instances: Instances,
        instance: Instance,
        step: str,
        *,
        direction: Direction,
        now_us: int,
    ) -> None:
        super().__init__(effects, instance.record(), now_us)
        self.saga_id = instance.id
        self._instances = instances
        self._instance = instance
        self._parts = (instance.saga, instance.id, step, direction)
        self._sent = 0

    @property
    def key(self) -> str:
        """Identifies this effect: the same for each try, another for the compensation."""
        return "/".join(str(part) for part in self._parts)

    @property
    def effect_id(self) -> int:
        """The same as a 63-bit number, usable as the id of a ledger transfer."""
        return identity_of(*self._parts)

    def result_of(self, step: Step[Any, R]) -> R:
        """The result of an earlier step: what it returned, or the answer that it got.

        Raises:
            EventsError: that step was not done.
        """
        return self._instances.result(self._instance, step)

    def emit(self, topic: Topic[T], value: T, *, key: str) -> None:
        """Send an event; its id derives from the saga, the step, and its number within the step."""
        self._send(topic, value, key, identity_of(*self._parts, self._sent), {})
        self._sent += 1

    def ask(self, topic: Topic[T], value: T) -> None:
        """Send a step's request, with the headers that correlate its answer.

        Raises:
            EventsError: the handler has returned nothing to send.
        """
        _, _, step, direction = self._parts
        if value is None:
            raise EventsError(f"step {step} asks, but its handler returned nothing to send")
        headers = answer_headers(self._instance, step, direction)
        self._send(topic, value, self.record.key, self.effect_id, headers)

    def _send(
        self, topic: Topic[T], value: T, key: str, event_id: int, headers: dict[str, str]
    ) -> None:
        caused = {"caused-by": str(self.record.event_id)}
        content = topic.encode(value)
        check_sendable(topic, key, content)
        self._effects.send(
            Message(
                event_id,
                topic.name,
                key,
                content,
                {**self.record.headers, **caused, **headers},
                self.now_us,
            )
        )


def answer_headers(instance: Instance, step: str, direction: Direction) -> dict[str, str]:
    """The headers that correlate an answer with its saga."""
    return {
        "saga": instance.saga,
        "saga-id": str(instance.id),
        "saga-step": step,
        "saga-direction": direction,
    }
