"""The buffered events of one key, on both sides of a join, without I/O.

An event waits from its commit until the watermark has passed the last moment at which a partner can
have happened, and the lateness after it: it is over then. Whoever comes is paired with those of the
other side that wait, are near enough, and are not over. So of two events the one that comes second
makes the pair, and there is one for each two. An event that is over may still be there, because the
timer that takes it out has not fired yet or has failed: it is paired no more, since it is about to
be told that it is alone.
"""

from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from counterfoil.events.errors import EventsError

EVENTS: Final = 1_000
"""Of one key that wait: they are read and written with each of its events."""
BYTES: Final = 16 * 1024 * 1024
"""Of one key's waiting events, for the same reason: sixteen of the largest that there are."""


class Entry(msgspec.Struct, array_like=True):
    """An event that waits."""

    right: bool
    """Its side: the second topic's."""
    place: str
    """Its record's in the log, with its id: events of other producers may have none, and after a
    move to another engine offsets may come again."""
    time_us: int
    value: bytes
    """As it came, in the format of its topic."""
    met: bool = False
    """Whether it has had a partner."""


class Waiting:
    """The waiting events of one key, in the order in which they came."""

    def __init__(self, entries: Iterable[Entry], *, within_us: int, lateness_us: int) -> None:
        self.entries = list(entries)
        self._within_us = within_us
        self._open_us = within_us + lateness_us + 1

    def closes_us(self, entry: Entry) -> int:
        """The watermark at which an event is over."""
        return entry.time_us + self._open_us

    def meet(self, entry: Entry, is_over: Callable[[int], bool]) -> list[Entry]:
        """Let an event wait that is not over; returns its partners among those that are there.

        `is_over` says whether the watermark has come to a time. Partners come in the order in which
        they happened.

        Raises:
            EventsError: too many wait.
        """
        partners = [
            other
            for other in self.entries
            if other.right != entry.right
            and abs(other.time_us - entry.time_us) <= self._within_us
            and not is_over(self.closes_us(other))
        ]
        for each in partners:
            each.met = True
        entry.met = bool(partners)
        self.entries.append(entry)
        size = sum(len(each.value) for each in self.entries)
        if len(self.entries) > EVENTS or size > BYTES:
            raise EventsError(
                f"{len(self.entries):,} events of one key, {size:,} bytes, wait for partners",
                hint=f"a join keeps {EVENTS:,} and {BYTES:,} bytes: join by a finer key, or allow "
                "less time between two events",
            )
        return sorted(partners, key=lambda each: (each.time_us, each.place))

    def take(self, place: str) -> Entry | None:
        """Let an event wait no longer; None if it doesn't."""
        found = next((each for each in self.entries if each.place == place), None)
        if found is not None:
            self.entries.remove(found)
        return found
