"""The state machine of a saga, without I/O or clock.

Forward, a step that is done leads to the next. Backward, a compensation that is done leads to that
of the step before. There are three ends: completed, compensated, and stuck, which waits for a
person: a compensation that can't be done leaves no right way to go on by itself.
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
    """Where an instance stands."""

    status: Status
    at: int
    """The step that comes next, or whose answer is waited for."""
    tries: int = 0
    """Failed tries of it so far."""
    waiting: bool = False
    due_us: int | None = None
    """When something is to be done next; None at an end."""

    @property
    def ended(self) -> bool:
        """Whether it has come to one of the two good ends."""
        return self.status in ("completed", "compensated")

    def action(self, steps: Steps) -> Action:
        """What is done next.

        Raises:
            LookupError: the step has no compensation; no progress leads there.
        """
        step = steps[self.at]
        action = step.do if self.status == "running" else step.undo
        if action is None:
            raise LookupError(f"step {step.name} has no compensation")
        return action


def begun(now_us: int) -> Progress:
    """Before the first step."""
    return Progress("running", 0, due_us=now_us)


def asked(steps: Steps, progress: Progress, now_us: int) -> Progress:
    """The step has asked, and waits."""
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
    """A try ended in an error, and left nothing behind; another try may do better."""
    action = progress.action(steps)
    tries = progress.tries + 1
    if tries < action.tries:
        due_us = now_us + action.wait_us(tries)
        return msgspec.structs.replace(progress, tries=tries, waiting=False, due_us=due_us)
    return refused(steps, msgspec.structs.replace(progress, tries=tries), now_us)


def refused(steps: Steps, progress: Progress, now_us: int) -> Progress:
    """The step can't be done, and left nothing behind; no other try will do better."""
    if progress.status == "compensating":
        return Progress("stuck", progress.at, progress.tries)
    return _backward(steps, progress.at - 1, now_us)


def in_doubt(steps: Steps, progress: Progress, now_us: int) -> Progress:
    """Somebody was asked, and whether it was done isn't known: the step itself is taken back."""
    if progress.status == "compensating":
        return failed(steps, progress, now_us)
    return _backward(steps, progress.at, now_us)


def overdue(steps: Steps, progress: Progress, now_us: int) -> Progress:
    """The whole saga took too long while it went forward."""
    return _backward(steps, progress.at if progress.waiting else progress.at - 1, now_us)


def resumed(progress: Progress, now_us: int) -> Progress:
    """A person has seen to what a compensation was stuck at: it is tried again."""
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
"""What follows from each outcome. `unclear` is an answer that can't be understood."""
