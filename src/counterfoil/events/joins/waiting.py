"""The buffered events of one key, on both sides of a join, without I/O.

An event waits from its commit until it is over: when the watermark has passed the last possible
time of a partner, plus the lateness. A new event is paired with those waiting events of the other
side that are close enough and not over. So the second event of two makes the pair, exactly once. An
event that is over may still be there, if its timer has not fired yet or has failed: it is not
paired, since it will be handled as unpaired.
"""

from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from counterfoil.events.errors import EventsError

EVENTS: Final = 1_000
"""Maximum waiting events of one key: all are read and written with each of its events."""
BYTES: Final = 16 * 1024 * 1024
"""Maximum size of one key's waiting events, for the same reason: sixteen of the largest events."""


class Entry(msgspec.Struct, array_like=True):
    """A waiting event."""

    right: bool
    """Whether it is of the second topic."""
    place: str
    """Its record's offset and id: foreign producers' events may have no id, and offsets may repeat
    after a move to another engine."""
    time_us: int
    value: bytes
    """In its topic's format."""
    met: bool = False
    """Whether it has had a partner."""


class Waiting:
    """The waiting events of one key, in order of arrival."""

    def __init__(self, entries: Iterable[Entry], *, within_us: int, lateness_us: int) -> None:
        self.entries = list(entries)
        self._within_us = within_us
        self._open_us = within_us + lateness_us + 1

    def closes_us(self, entry: Entry) -> int:
        """The watermark at which an event is over."""
        return entry.time_us + self._open_us

    def meet(self, entry: Entry, is_over: Callable[[int], bool]) -> list[Entry]:
        """Add an event that is not over; returns its waiting partners, in order of event time.

        `is_over` tells whether the watermark has reached a time.

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
        """Remove and return a waiting event; None if there is none."""
        found = next((each for each in self.entries if each.place == place), None)
        if found is not None:
            self.entries.remove(found)
        return found
