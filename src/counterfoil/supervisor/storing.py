"""Appends the events of one topic to its lake table; events that make no row are dead letters.

These are events that can't be read, have a number that fits no column, or have no day.

Dead letters are in the pipelines' database, positions in the table, so they take two commits. The
letter is stored first, and only once for its position in the log: after a crash between the commits
the event is read again, and its letter is found.

A letter is retried as any pipeline's, through a retry topic that is read beside the topic itself.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final

from counterfoil import faults
from counterfoil.application import Application
from counterfoil.events import UNREADABLE, EventLog, PipelineStore, StoreUnavailable
from counterfoil.events.dead_letters import DeadLetters, Selection, bury
from counterfoil.events.messages import Batch as Fetched
from counterfoil.events.messages import Record
from counterfoil.events.topics import AnyTopic
from counterfoil.reports import Batch, Engine, Lake, LakeWriter, RowRefused, Table

GROUP: Final = "lake"
STORE_ROWS: Final = 5_000
"""Rows per append to the lake, so that files, one per day and append, aren't tiny."""


class Storing:
    """Maintains a table; only one process at a time should."""

    def __init__(
        self,
        application: Application,
        table: str,
        *,
        lake: Lake,
        engine: Engine,
        event_log: EventLog,
        store: PipelineStore,
        now_us: Callable[[], int],
    ) -> None:
        topic, self._table = application.stores[table]
        self._name = application.lake_name(table)
        self._store = store
        self._now_us = now_us
        store.begin(GROUP, [topic], event_log)
        self._writer = LakeWriter(lake, self._table, engine)
        retries, _ = application.lake_topics(table)
        self._readers = [
            (source, event_log.reader([source], self._positions_of(source)))
            for source in (topic, retries)
        ]

    def step(self) -> int:
        """Append some events of each source; returns how many were read, letters included.

        Raises:
            EventsError, ReportsError: no position has advanced; a later step retries.
        """
        taken = 0
        for source, reader in self._readers:
            fetched = reader.fetch(STORE_ROWS)
            if not fetched:
                continue
            try:
                self._append(source, fetched)
            except BaseException:
                reader.rewind()
                raise
            taken += sum(len(batch.records) for batch in fetched)
        return taken

    def _append(self, source: AnyTopic, fetched: list[Fetched]) -> None:
        batches = {
            each.partition: Batch(self._rows(source, each), each.end, start=each.start)
            for each in fetched
        }
        moved = {partition: batch.next_offset for partition, batch in batches.items()}
        self._writer.append(batches, source=source.name, now_us=self._now_us())
        self._store.store_positions(GROUP, source.name, moved)

    def _rows(self, source: AnyTopic, batch: Fetched) -> list[Any]:
        rows: list[Any] = []
        for record in batch.records:
            try:
                row = source.decode(record.value)
                self._table.check(row)
            except (*UNREADABLE, RowRefused) as error:
                self._bury(record, error)
            else:
                rows.append(row)
        return rows

    def _bury(self, record: Record, error: Exception) -> None:
        database = self._store.database
        with database.transaction():
            known = database.execute(
                "SELECT 1 FROM dead_letters "
                'WHERE pipeline = ? AND topic = ? AND partition = ? AND "offset" = ?',
                (self._name, record.topic, record.partition, record.offset),
            ).fetchone()
            if known is None:
                now_us = self._now_us()
                told = bury(self._store, self._name, record, error, tries=1, now_us=now_us)
                self._store.send([told])

    def _positions_of(self, source: AnyTopic) -> Callable[[str], Mapping[int, int]]:
        def positions(_: str) -> Mapping[int, int]:
            if faults.sabotaged("append-without-transaction"):
                return self._store.positions(GROUP, source.name)
            found = self._writer.positions(source.name, source.partitions)
            # After a crash between the table's commit and this one, the stored position is behind.
            self._store.store_positions(GROUP, source.name, found)
            return found

        return positions


def unread(
    application: Application, table: Table[Any], letters: Callable[[], DeadLetters]
) -> int | None:
    """The table's dead letters that wait for a decision; None if their database is unavailable."""
    waiting = Selection(pipeline=application.lake_name(table.name), state="waiting")
    with suppress(StoreUnavailable):
        number, _ = letters().count(waiting)
        return number
    return None
