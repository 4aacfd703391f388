"""Many letters, one after the other: in the order of their failures, at a bounded rate.

Each is a commit of its own, so that a replay that is cut short has done what it has told, and a
second one goes on with the rest. Letters that are buried while it runs, perhaps the same events
again, are not taken up.
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
"""Letters a second unless somebody asks for more: a pipeline takes these beside its live events."""


class Outcome(msgspec.Struct, frozen=True):
    """What became of one letter of a replay."""

    letter: int
    result: Literal["done", "failed", "skipped"]
    """`skipped`: somebody else was faster; `failed`: nothing was done, and it still waits."""
    detail: str = ""


class Pace:
    """Spreads acts evenly; without a rate, nothing waits."""

    def __init__(
        self, per_second: float, clock: Callable[[], float], sleep: Callable[[float], None]
    ) -> None:
        """`clock` gives seconds that never go back; a rate of 0 is none."""
        self._between = 1 / per_second if per_second > 0 else 0.0
        self._clock = clock
        self._sleep = sleep
        self._next = clock()

    def wait(self) -> None:
        """Return when the next act may happen; time that went by unused is not made up for."""
        now = self._clock()
        if self._next > now:
            self._sleep(self._next - now)
        self._next = max(self._next, now) + self._between


def in_order(
    letters: DeadLetters, selection: Selection, *, after: int = 0, last: int | None = None
) -> Iterator[DeadLetter]:
    """The letters of a selection, the oldest first, up to the newest one of now.

    A part of a replay names the letter that the part before came to (`after`), and the newest one
    when the first part began (`last`).
    """
    if last is None:
        _, last = letters.count(selection)
    while page := letters.in_order(selection, after=after, last=last, limit=PAGE):
        yield from page
        after = page[-1].id


def act_on_each(
    letters: Iterable[DeadLetter], act: Callable[[DeadLetter], str], pace: Pace
) -> Iterator[Outcome]:
    """Call `act` for every letter, at its pace.

    `act` returns what to say of the letter, and raises an `EventsError` if it could do nothing.

    Raises:
        StoreUnavailable, LogUnavailable: the engine went away; what was told until then is done.
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
