"""The open windows of one key: an entry of the keyed state, and a timer for each.

Windows of a key are few, and a session has to be compared with its neighbours; so they are read and
written together. An entry without windows is deleted.
"""

from typing import Any, Final, Generic, TypeVar, cast

import msgspec

from counterfoil.events.effects import Context
from counterfoil.events.errors import EventsError
from counterfoil.events.state import OWN

S = TypeVar("S")
OPEN: Final = 1_000
"""Open windows of one key: they are read and written with each of its events."""


class Window(msgspec.Struct, Generic[S], frozen=True):
    """A window of one key with what its events add up to."""

    key: str
    start_us: int
    """Its first microsecond since 1970; of a session, its first event's."""
    end_us: int
    """The microsecond after its last one; of a session, a gap after its last event."""
    state: S
    final: bool
    """Whether it has closed: nothing will be added to it, and it is not told again."""


class OpenWindows(Generic[S]):
    """The open windows of one key, by their starts: read at first, written by `write`."""

    def __init__(self, decoder: msgspec.msgpack.Decoder[Any], context: Context, key: str) -> None:
        self.context = context
        self._key = key
        self._place = f"{OWN}windows {key}"
        kept = context.state.get(self._place)
        found = [] if kept is None else cast("list[tuple[int, int, S]]", decoder.decode(kept))
        self._windows = {start: (end, state) for start, end, state in found}

    def get(self, start_us: int) -> tuple[int, S] | None:
        """The end of a window, and what it holds."""
        return self._windows.get(start_us)

    def put(self, start_us: int, end_us: int, state: S) -> None:
        """Keep a window.

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
        """Keep a window no longer."""
        del self._windows[start_us]

    def overlapping(self, start_us: int, end_us: int) -> list[tuple[int, int, S]]:
        """The windows that share a moment with a span, the earliest first."""
        return sorted(
            (
                (start, end, state)
                for start, (end, state) in self._windows.items()
                if start < end_us and start_us < end
            ),
            key=lambda window: window[0],
        )

    def window(self, start_us: int, *, final: bool) -> Window[S]:
        """A window as it is told."""
        end_us, state = self._windows[start_us]
        return Window(self._key, start_us, end_us, state, final)

    def close_at(self, start_us: int, at_us: int) -> None:
        """Let a window close then."""
        self.context.timers.set(str(start_us), at_us, key=self._key)

    def never_close(self, start_us: int) -> None:
        """A window has become part of another one."""
        self.context.timers.cancel(str(start_us), key=self._key)

    def write(self) -> None:
        """Leave the windows in the state; no window leaves no trace."""
        if not self._windows:
            self.context.state.delete(self._place)
            return
        windows = sorted((start, *rest) for start, rest in self._windows.items())
        self.context.state.put(self._place, msgspec.msgpack.encode(windows))
