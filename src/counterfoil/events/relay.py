"""Moves an outbox into the log, in commit order, each row once.

The position in the outbox is stored in the log in the same commit as the records, and the log
refuses a fencing token older than one it has seen: a leader that was paused for longer than its
lease wakes up to `Fenced` in place of a second copy.
"""

from counterfoil import faults
from counterfoil.events.log import EmbeddedLog
from counterfoil.events.outbox import OutboxReader

BATCH = 1_000


class Relay:
    """One term of a leading relay; make a new one for each term."""

    def __init__(
        self, outbox: OutboxReader, log: EmbeddedLog, *, source: str, fencing_token: int
    ) -> None:
        self._outbox = outbox
        self._log = log
        self._source = source
        self._fencing_token = fencing_token
        self._position = log.position(source)

    def step(self) -> int:
        """Move at most a batch; returns the number of rows moved.

        Raises:
            Fenced: this term is over.
        """
        rows = self._outbox.read_after(self._position, BATCH)
        if not rows:
            return 0
        faults.point("relay.before-append")
        position = rows[-1][0]
        self._log.append(
            [message for _, message in rows],
            source=self._source,
            position=position,
            expected_position=self._position,
            fencing_token=self._fencing_token,
        )
        self._position = position
        return len(rows)
