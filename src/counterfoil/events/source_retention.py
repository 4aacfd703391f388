"""Deletes old answers and sent events of a service.

A service keeps the answer to each Idempotency-Key for whoever repeats it, and each event in its
outbox for whoever looks up where it came from. Neither is of use for ever, and both would grow for
ever. The leading relay forgets them beside what it moves. Of events it forgets those that are old
and were moved: how old they are is told by the clock of whoever wrote them, and a clock alone must
lose nothing. Where they are read from PostgreSQL's log, every row's number is below the position:
what is not moved yet is on its way in the log, which doesn't need the row.
"""

from typing import Final

from counterfoil.events import outbox, service_store
from counterfoil.events.database import Database

KEEP_SECONDS: Final = 30 * 24 * 3600
"""Unless a service says otherwise: longer than any client goes on repeating a request."""
LEAST_KEEP_SECONDS: Final = 24 * 3600
"""A client that was away for a night repeats its request in the morning."""
CHUNK: Final = 1_000
"""Rows of a table that one transaction forgets: some milliseconds, for which writers wait."""
LOOK_US: Final = 60_000_000
"""Between two looks, once one has found less than a chunk. Where something grows old all the time,
to forget each row as it does would be a transaction a row, for which writers wait."""

_ANSWERS: Final = (
    "SELECT 1 FROM idempotency WHERE created_us < ? LIMIT 1",
    "DELETE FROM idempotency WHERE created_us < ? "
    "AND key IN (SELECT key FROM idempotency ORDER BY created_us LIMIT ?)",
)
# The newest event stays, old or not: how far the numbers have come is told from it.
_EVENTS: Final = (
    "SELECT 1 FROM outbox WHERE created_us < ? AND seq <= ? "
    "AND seq = (SELECT min(seq) FROM outbox) AND seq < (SELECT max(seq) FROM outbox)",
    "DELETE FROM outbox WHERE created_us < ? AND seq <= ? "
    "AND seq < (SELECT max(seq) FROM outbox) "
    "AND seq IN (SELECT seq FROM outbox ORDER BY seq LIMIT ?)",
)


class SourceRetention:
    """The retention of one source in its `database`; pipelines as a source have no `answers`."""

    def __init__(self, database: Database, keep_seconds: float, *, answers: bool) -> None:
        database.create([outbox.SCHEMA, *([service_store.SCHEMA] if answers else [])])
        self._database = database
        self._keep_us = int(keep_seconds * 1_000_000)
        self._answers = answers
        self._looked_us = 0

    def step(self, now_us: int, position: int) -> int:
        """Forget a chunk of each table at most, of the outbox what was moved: up to `position`.

        Returns the number of rows.

        Raises:
            StoreUnavailable: nothing was forgotten; a later step may.
        """
        if 0 <= now_us - self._looked_us < LOOK_US:
            return 0
        old_us = now_us - self._keep_us
        found = [self._forget(_EVENTS, old_us, position)]
        if self._answers:
            found.append(self._forget(_ANSWERS, old_us))
        if max(found) < CHUNK:
            self._looked_us = now_us
        return sum(found)

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def _forget(self, statements: tuple[str, str], *where: int) -> int:
        finding, forgetting = statements
        if self._database.execute(finding, where).fetchone() is None:
            return 0  # without the write lock, as most of the time
        with self._database.transaction():
            return self._database.execute(forgetting, (*where, CHUNK)).rowcount
