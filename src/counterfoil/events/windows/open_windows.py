"""The open windows of one key: one entry of the keyed state, and a timer for each window.

A key has few windows, and a session must be compared with its neighbours; so all are read and
written together. An entry without windows is deleted.
"""

from typing import Any, Final, Generic, TypeVar, cast

import msgspec

from counterfoil.events.effects import Context
from counterfoil.events.errors import EventsError
from counterfoil.events.state import OWN

S = TypeVar("S")
OPEN: Final = 1_000
"""Maximum open windows of one key: all are read and written with each of its events."""


class Window(msgspec.Struct, Generic[S], frozen=True):
    """A window of one key with its aggregated state."""

    key: str
    start_us: int
    """Its start, inclusive, in microseconds since 1970; of a session, its first event's time."""
    end_us: int
    """Its end, exclusive; of a session, its last event's time plus the gap."""
    state: S
    final: bool
    """Whether it has closed: it won't change or be emitted again."""


class OpenWindows(Generic[S]):
    """The open windows of one key, by their starts: read on creation, stored by `write`."""

    def __init__(self, decoder: msgspec.msgpack.Decoder[Any], context: Context, key: str) -> None:
        self.context = context
        self._key = key
        self._place = f"{OWN}windows {key}"
        kept = context.state.get(self._place)
        found = [] if kept is None else cast("list[tuple[int, int, S]]", decoder.decode(kept))
        self._windows = {start: (end, state) for start, end, state in found}

    def get(self, start_us: int) -> tuple[int, S] | None:
        """The end of a window, and its state."""
        return self._windows.get(start_us)

    def put(self, start_us: int, end_us: int, state: S) -> None:
        """Add or replace a window.

        Raises:
            EventsError: the key has too many.
        """
        self._windows[start_us] = (end_us, state)
        if len(self._windows) > OPEN:
            raise EventsError(
                f"{self._key!r} has more than {OPEN} open windows",
                hint="allow less disorder and lateness, or longer windows",
            )

    def take(self, start_us: int) -> None:
        """Remove a window."""
        del self._windows[start_us]

    def overlapping(self, start_us: int, end_us: int) -> list[tuple[int, int, S]]:
        """The windows that overlap a span, the earliest first."""
        return sorted(
            (
                (start, end, state)
                for start, (end, state) in self._windows.items()
                if start < end_us and start_us < end
            ),
            key=lambda window: window[0],
        )

    def window(self, start_us: int, *, final: bool) -> Window[S]:
        """A window, for the user's function."""
        end_us, state = self._windows[start_us]
        return Window(self._key, start_us, end_us, state, final)

    def close_at(self, start_us: int, at_us: int) -> None:
        """Set the timer at which a window closes."""
        self.context.timers.set(str(start_us), at_us, key=self._key)

    def never_close(self, start_us: int) -> None:
        """Cancel the timer of a window that was merged into another one."""
        self.context.timers.cancel(str(start_us), key=self._key)

    def write(self) -> None:
        """Write the windows to the state; delete the entry if there are none."""
        if not self._windows:
            self.context.state.delete(self._place)
            return
        windows = sorted((start, *rest) for start, rest in self._windows.items())
        self.context.state.put(self._place, msgspec.msgpack.encode(windows))
