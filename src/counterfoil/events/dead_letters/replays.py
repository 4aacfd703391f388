"""Acts on many letters, one after the other: in the order of their failures, at a limited rate.

Each is its own commit, so that an interrupted replay has done what it reported, and another one can
do the rest. Letters that are added while it runs, perhaps for the same events, are not included.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Final, Literal

import msgspec

from counterfoil.events.dead_letters.letter import DeadLetter
from counterfoil.events.dead_letters.letters import PAGE, DeadLetters
from counterfoil.events.dead_letters.selection import Selection
from counterfoil.events.errors import (
    DeadLetterSettled,
    EventsError,
    LogUnavailable,
    StoreUnavailable,
)

PER_SECOND: Final = 100.0
"""The default rate, in letters per second: a pipeline can handle that beside its live events."""


class Outcome(msgspec.Struct, frozen=True):
    """The outcome for one letter of a replay."""

    letter: int
    result: Literal["done", "failed", "skipped"]
    """`skipped`: it was settled by somebody else; `failed`: nothing was done, it still waits."""
    detail: str = ""


class Pace:
    """A rate limiter that spreads actions evenly."""

    def __init__(
        self, per_second: float, clock: Callable[[], float], sleep: Callable[[float], None]
    ) -> None:
        """`clock` returns monotonic seconds; a rate of 0 means no limit."""
        self._between = 1 / per_second if per_second > 0 else 0.0
        self._clock = clock
        self._sleep = sleep
        self._next = clock()

    def wait(self) -> None:
        """Wait until the next action is allowed; unused time doesn't allow a burst."""
        now = self._clock()
        if self._next > now:
            self._sleep(self._next - now)
        self._next = max(self._next, now) + self._between


def in_order(
    letters: DeadLetters, selection: Selection, *, after: int = 0, last: int | None = None
) -> Iterator[DeadLetter]:
    """The letters of a selection, the oldest first, up to the newest at this moment.

    To continue a replay, pass the last letter that it has reached (`after`) and the newest one at
    its start (`last`).
    """
    if last is None:
        _, last = letters.count(selection)
    while page := letters.in_order(selection, after=after, last=last, limit=PAGE):
        yield from page
        after = page[-1].id


def act_on_each(
    letters: Iterable[DeadLetter], act: Callable[[DeadLetter], str], pace: Pace
) -> Iterator[Outcome]:
    """Call `act` for every letter, at the given pace.

    `act` returns the outcome's detail, and raises an `EventsError` if nothing was done.

    Raises:
        StoreUnavailable, LogUnavailable: the engine failed; what was reported until then is done.
    """
    for letter in letters:
        pace.wait()
        yield _outcome(letter, act)


def _outcome(letter: DeadLetter, act: Callable[[DeadLetter], str]) -> Outcome:
    try:
        return Outcome(letter.id, "done", act(letter))
    except (StoreUnavailable, LogUnavailable):
        raise
    except DeadLetterSettled as error:
        return Outcome(letter.id, "skipped", str(error))
    except EventsError as error:
        return Outcome(letter.id, "failed", str(error))
