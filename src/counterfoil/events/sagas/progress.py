"""The state machine of a saga, without I/O or clock.

Forward, a step that is done leads to the next one. Backward, a compensation that is done leads to
that of the previous step. There are three final states: completed, compensated, and stuck. A saga
whose compensation fails is stuck, and waits for a person.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, Literal

import msgspec

from counterfoil.events.sagas.saga import Action, Step

Status = Literal["running", "compensating", "completed", "compensated", "stuck"]
Outcome = Literal["done", "asked", "failed", "refused", "unclear", "unanswered", "overdue"]
Steps = Sequence[Step[Any, Any]]


class Progress(msgspec.Struct, frozen=True):
    """An instance's position and status."""

    status: Status
    at: int
    """The index of the step that is next, or that waits for its answer."""
    tries: int = 0
    """Failed tries of it so far."""
    waiting: bool = False
    due_us: int | None = None
    """When the next action is due; None in a final state."""

    @property
    def ended(self) -> bool:
        """Whether it is completed or compensated."""
        return self.status in ("completed", "compensated")

    def action(self, steps: Steps) -> Action:
        """The next action.

        Raises:
            LookupError: the step has no compensation; no progress leads there.
        """
        step = steps[self.at]
        action = step.do if self.status == "running" else step.undo
        if action is None:
            raise LookupError(f"step {step.name} has no compensation")
        return action


def begun(now_us: int) -> Progress:
    """The state before the first step."""
    return Progress("running", 0, due_us=now_us)


def asked(steps: Steps, progress: Progress, now_us: int) -> Progress:
    """The step has sent its request, and waits for the answer."""
    ask = progress.action(steps).ask
    timeout = ask.timeout_seconds if ask else 0.0
    return msgspec.structs.replace(progress, waiting=True, due_us=now_us + int(timeout * 1_000_000))


def done(steps: Steps, progress: Progress, now_us: int) -> Progress:
    """The step, or its compensation, is done."""
    if progress.status == "compensating":
        return _backward(steps, progress.at - 1, now_us)
    if progress.at + 1 == len(steps):
        return Progress("completed", progress.at)
    return Progress("running", progress.at + 1, due_us=now_us)


def failed(steps: Steps, progress: Progress, now_us: int) -> Progress:
    """A try failed without effects; it may be retried."""
    action = progress.action(steps)
    tries = progress.tries + 1
    if tries < action.tries:
        due_us = now_us + action.wait_us(tries)
        return msgspec.structs.replace(progress, tries=tries, waiting=False, due_us=due_us)
    return refused(steps, msgspec.structs.replace(progress, tries=tries), now_us)


def refused(steps: Steps, progress: Progress, now_us: int) -> Progress:
    """The step can't be done, and had no effects; it is not retried."""
    if progress.status == "compensating":
        return Progress("stuck", progress.at, progress.tries)
    return _backward(steps, progress.at - 1, now_us)


def in_doubt(steps: Steps, progress: Progress, now_us: int) -> Progress:
    """The outcome of a request is unknown: the step itself is compensated too."""
    if progress.status == "compensating":
        return failed(steps, progress, now_us)
    return _backward(steps, progress.at, now_us)


def overdue(steps: Steps, progress: Progress, now_us: int) -> Progress:
    """The saga exceeded its timeout while going forward."""
    return _backward(steps, progress.at if progress.waiting else progress.at - 1, now_us)


def resumed(progress: Progress, now_us: int) -> Progress:
    """Retry the compensation at which the saga was stuck."""
    return Progress("compensating", progress.at, due_us=now_us)


def _backward(steps: Steps, start: int, now_us: int) -> Progress:
    for index in range(start, -1, -1):
        if steps[index].undo is not None:
            return Progress("compensating", index, due_us=now_us)
    return Progress("compensated", 0)


AFTER: Final[Mapping[Outcome, Callable[[Steps, Progress, int], Progress]]] = MappingProxyType(
    {
        "done": done,
        "asked": asked,
        "failed": failed,
        "refused": refused,
        "unclear": in_doubt,
        "unanswered": in_doubt,
        "overdue": overdue,
    }
)
"""The transition for each outcome. `unclear` is an answer that could not be processed."""
