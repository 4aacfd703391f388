"""The outbox relay: moves rows into the log, in commit order, exactly once.

The outbox position is stored in the log together with the records, and the log fences ended terms:
a leader that was paused for longer than its lease gets `Fenced` instead of writing duplicates.
"""

from collections.abc import Callable

from counterfoil import faults
from counterfoil.events.log import Appender
from counterfoil.events.outbox import OutboxReader

BATCH = 1_000


class Relay:
    """One term of a leading relay; make a new one for each term.

    `forget` deletes some old rows up to a position that was moved, and returns their number.
    """

    def __init__(
        self, outbox: OutboxReader, appender: Appender, forget: Callable[[int], int] = lambda _: 0
    ) -> None:
        self._outbox = outbox
        self._appender = appender
        self._forget = forget

    def step(self) -> int:
        """Move at most a batch; returns the number of rows moved or, if none were, deleted.

        Raises:
            TermOver: this term is over; a new one finds out what was moved.
        """
        rows = self._outbox.read_after(self._appender.position, BATCH)
        if rows:
            faults.point("relay.before-append")
            self._appender.append([message for _, message in rows], rows[-1][0])
        # Also while there is more to move: otherwise a busy source would never delete anything.
        forgotten = self._forget(self._appender.position)
        return len(rows) or forgotten
