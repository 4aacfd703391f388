"""Moves the events of one topic into its lake table; what has no row there is a dead letter.

That is an event that can't be read, one with a number that no column holds, or one without a day.

Letters are in the database of the pipelines and positions in the table, which are two commits. So a
letter is kept first, once for its place in the log: after a crash between the two the event is met
again, and its letter is there already.

A letter comes back as any pipeline's does, by a retry topic, which is read beside the topic itself.
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
"""Rows of one append to the lake: a file a day and append should not be tiny."""


class Storing:
    """Keeps a table; one process at a time should."""

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
        """Append some events of each source; returns how many were taken, letters among them.

        Raises:
            EventsError, ReportsError: nothing was moved on; a later step begins where it was.
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
            # A crash may have come between the table's commit and this note of it.
            self._store.store_positions(GROUP, source.name, found)
            return found

        return positions


def unread(
    application: Application, table: Table[Any], letters: Callable[[], DeadLetters]
) -> int | None:
    """Letters of a table that wait for a decision; None if their database can't be asked."""
    waiting = Selection(pipeline=application.lake_name(table.name), state="waiting")
    with suppress(StoreUnavailable):
        number, _ = letters().count(waiting)
        return number
    return None
