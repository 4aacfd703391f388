"""Deletes old responses and sent events of a service.

A service stores the response to each Idempotency-Key for retries, and each event in its outbox for
tracing its origin. Both would grow without limit. The leading relay deletes old ones beside its
work. Events are deleted only if they are old and were moved: age is by the writer's clock, and a
wrong clock alone must not lose events. If the outbox is read from PostgreSQL's WAL, every row's
number is below the position: events that are not moved yet are in the WAL, which doesn't need the
rows.
"""

from typing import Final

from counterfoil.events import outbox, service_store
from counterfoil.events.database import Database

KEEP_SECONDS: Final = 30 * 24 * 3600
"""The default: longer than any client keeps retrying a request."""
LEAST_KEEP_SECONDS: Final = 24 * 3600
"""A client that was offline for a night retries in the morning."""
CHUNK: Final = 1_000
"""Rows of a table that one transaction deletes: some milliseconds, for which writers wait."""
LOOK_US: Final = 60_000_000
"""Pause between deletions, once one has found less than a chunk. Rows expire all the time, and
deleting each at once would take a transaction per row, for which writers wait."""

_ANSWERS: Final = (
    "SELECT 1 FROM idempotency WHERE created_us < ? LIMIT 1",
    "DELETE FROM idempotency WHERE created_us < ? "
    "AND key IN (SELECT key FROM idempotency ORDER BY created_us LIMIT ?)",
)
# The newest event is kept, however old: it tells the highest number.
_EVENTS: Final = (
    "SELECT 1 FROM outbox WHERE created_us < ? AND seq <= ? "
    "AND seq = (SELECT min(seq) FROM outbox) AND seq < (SELECT max(seq) FROM outbox)",
    "DELETE FROM outbox WHERE created_us < ? AND seq <= ? "
    "AND seq < (SELECT max(seq) FROM outbox) "
    "AND seq IN (SELECT seq FROM outbox ORDER BY seq LIMIT ?)",
)


class SourceRetention:
    """The retention of one source in its `database`; the pipelines' source has no `answers`."""

    def __init__(self, database: Database, keep_seconds: float, *, answers: bool) -> None:
        database.create([outbox.SCHEMA, *([service_store.SCHEMA] if answers else [])])
        self._database = database
        self._keep_us = int(keep_seconds * 1_000_000)
        self._answers = answers
        self._looked_us = 0

    def step(self, now_us: int, position: int) -> int:
        """Delete at most a chunk of each table, of the outbox only up to `position`.

        Returns the number of rows.

        Raises:
            StoreUnavailable: the database failed; try again later.
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
            return 0  # the common case, without taking the write lock
        with self._database.transaction():
            return self._database.execute(forgetting, (*where, CHUNK)).rowcount
