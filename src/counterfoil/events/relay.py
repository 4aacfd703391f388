"""Moves an outbox into the log, in commit order, each row once.

The position in the outbox is stored in the log together with the records, and the log knows when
a term is over: a leader that was paused for longer than its lease wakes up to `Fenced` in place of
a second copy.
"""

from counterfoil import faults
from counterfoil.events.log import Appender
from counterfoil.events.outbox import OutboxReader

BATCH = 1_000


class Relay:
    """One term of a leading relay; make a new one for each term."""

    def __init__(self, outbox: OutboxReader, appender: Appender) -> None:
        self._outbox = outbox
        self._appender = appender

    def step(self) -> int:
        """Move at most a batch; returns the number of rows moved.

        Raises:
            TermOver: this term is over; a new one knows what was moved.
        """
        rows = self._outbox.read_after(self._appender.position, BATCH)
        if not rows:
            return 0
        faults.point("relay.before-append")
        self._appender.append([message for _, message in rows], rows[-1][0])
        return len(rows)
