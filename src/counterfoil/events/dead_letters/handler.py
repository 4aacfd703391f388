"""Runs a handler on one letter: for good, or in a transaction that is rolled back.

Both work like the pipeline's own commits and are counted with them, so that they wait for those in
progress, and the pipeline's processes then clear their caches of the state (`terms.py`). The
handler's effects are observed as writes at the database interface: state, transfers and anything
else, on either engine.

A rehearsal can't undo what a handler does outside its context, such as a call to another service,
and holds its locks (in SQLite, the one write lock) while the handler runs.
"""

import copy
import re
import traceback
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

import msgspec

from counterfoil.events import rows
from counterfoil.events.database import Cursor, Database
from counterfoil.events.dead_letters.letter import readable
from counterfoil.events.dead_letters.letters import DeadLetters
from counterfoil.events.effects import Context, Effects, TimerContext
from counterfoil.events.errors import HandlerFailed, StoreUnavailable
from counterfoil.events.event_time import stored_watermarks
from counterfoil.events.messages import Message, Record
from counterfoil.events.pipeline_store import PipelineStore
from counterfoil.events.terms import interrupt, shares_of
from counterfoil.events.timers import buried_timer

if TYPE_CHECKING:
    from counterfoil.events.pipeline import Pipeline

_WRITE: Final = re.compile(r"\s*(INSERT\s+INTO|UPDATE|DELETE\s+FROM)\s+\"?(\w+)", re.IGNORECASE)
_OWN: Final = frozenset({"ledger_accounts", "ledger_transfers", "offsets", "outbox", "state"})
"""Tables that are reported otherwise, or derived from what is reported."""
_PLURALS: Final = {"change of state": "changes of state", "row of its own": "rows of its own"}


class Transfer(msgspec.Struct, frozen=True):
    """A transfer that was posted; the amount in minor units."""

    id: int
    debit: str
    credit: str
    amount: int
    currency: str
    code: str


class Emitted(msgspec.Struct, frozen=True):
    """An event that was emitted."""

    topic: str
    key: str
    value: msgspec.Raw | str


class Changed(msgspec.Struct, frozen=True):
    """A key of the pipeline's state with its new value; None if it was deleted."""

    key: str
    value: msgspec.Raw | str | None


class Written(msgspec.Struct, frozen=True):
    """Rows of another table that the handler has written by its own SQL."""

    statement: str
    table: str
    rows: int


class Handled(msgspec.Struct, frozen=True):
    """A handler's effects on a letter, real or rehearsed; or why it fails again."""

    letter: int
    transfers: list[Transfer] = msgspec.field(default_factory=list[Transfer])
    emitted: list[Emitted] = msgspec.field(default_factory=list[Emitted])
    state: list[Changed] = msgspec.field(default_factory=list[Changed])
    written: list[Written] = msgspec.field(default_factory=list[Written])
    error: str | None = None
    traceback: str = ""

    def __str__(self) -> str:
        if self.error is not None:
            return self.error
        numbers = (
            (len(self.transfers), "transfer"),
            (len(self.emitted), "event"),
            (len(self.state), "change of state"),
            (sum(each.rows for each in self.written), "row of its own"),
        )
        told = [
            f"{number} {what if number == 1 else _PLURALS.get(what, what + 's')}"
            for number, what in numbers
            if number
        ]
        return ", ".join(told) or "no effect"


def rehearse(letters: DeadLetters, number: int, pipeline: "Pipeline[Any]", now_us: int) -> Handled:
    """Tell what the handler would do with a letter, or how it would fail; then roll back.

    Raises:
        NoSuchDeadLetter: there is none with this number.
        StoreUnavailable: the database is unavailable.
    """
    record = letters.show(number).record
    try:
        with _rolled_back(letters.store.database):
            return _handle(letters.store, number, pipeline, record, now_us=now_us)
    except HandlerFailed as error:
        cause = error.__cause__
        trace = "".join(traceback.format_exception(cause)) if cause is not None else ""
        return Handled(number, error=str(error), traceback=trace)


def handle(letters: DeadLetters, number: int, pipeline: "Pipeline[Any]", now_us: int) -> Handled:
    """Run the handler on a letter now; its effects and the letter's mark are one commit.

    Raises:
        NoSuchDeadLetter: there is none with this number.
        DeadLetterSettled: it was replayed or discarded before.
        HandlerFailed: it failed again; nothing was done, and the letter still waits.
        StoreUnavailable: nothing was done; try again later.
    """
    store = letters.store
    with store.database.transaction():
        letters.mark_replayed(number, now_us)
        record = letters.show(number).record
        done = _handle(store, number, pipeline, record, now_us=now_us, send=store.send)
        letters.note_handled(number, now_us, str(done))
    return done


@contextmanager
def _rolled_back(database: Database) -> Generator[None, None, None]:
    """A transaction that is rolled back at its end."""
    with suppress(_NothingStays), database.transaction():
        yield
        raise _NothingStays


class _NothingStays(Exception):
    """Rolls back a transaction without an error."""


def _handle(
    store: PipelineStore,
    number: int,
    pipeline: "Pipeline[Any]",
    record: Record,
    *,
    now_us: int,
    send: Callable[[Iterable[Message]], None] = lambda _: None,
) -> Handled:
    """Run the handler in the caller's transaction, once."""
    observed = _Observed(store.database)
    sent: list[Message] = []

    def send_on(messages: Iterable[Message]) -> None:
        messages = list(messages)
        sent.extend(messages)
        send(messages)

    watched = copy.copy(store)
    watched.database, watched.send = observed, send_on
    interrupt(store.database, pipeline.name)
    effects = Effects(
        watched,
        pipeline.name,
        clocks=pipeline.clocks,
        tables=pipeline.tables,
        partitions=pipeline.source.partitions,
    )
    if pipeline.tables:
        # Each process has its own copy of the tables: use the first one's.
        effects.copy = shares_of(store.database, pipeline.name)[0]
    effects.begin(alone=True)
    if pipeline.event_time is not None:
        effects.watermark_us = stored_watermarks(store.database, pipeline.name).value_us
    try:
        effects.handle(*_work(pipeline, effects, record, now_us))
        effects.flush()
    except StoreUnavailable:
        raise  # not this event's fault
    except Exception as error:
        raise HandlerFailed(f"{type(error).__name__}: {error}") from error
    return observed.handled(number, sent)


def _work(
    pipeline: "Pipeline[Any]", effects: Effects, record: Record, now_us: int
) -> tuple[Any, ...]:
    """The function to call for a record, with arguments: for an event, a timer or a table's row.

    Raises:
        msgspec.DecodeError: the record is none of them.
    """
    if pipeline.timer is not None and (timer := buried_timer(record)) is not None:
        return pipeline.timer, timer, TimerContext(effects, timer, now_us)
    if (table := rows.table_of(record, pipeline.tables)) is not None:
        copies = shares_of(effects.state.database, pipeline.name)
        return rows.keep, effects.state, table, record, copies
    event = pipeline.stream_of(record).decode(record.value)
    context = Context(effects, record, now_us)
    if pipeline.batch:
        return pipeline.handler, [(event, context)]
    return pipeline.handler, event, context


class _Observed:
    """A database that records what is written through it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._writes: list[tuple[str, str, list[Sequence[Any]]]] = []

    def create(self, statements: Iterable[str]) -> None:
        self._database.create(statements)

    def execute(self, sql: str, parameters: Sequence[object] = ()) -> Cursor:
        found = self._database.execute(sql, parameters)
        if (write := _WRITE.match(sql)) and found.rowcount > 0:
            self._writes.append((write[1], write[2], [parameters] * found.rowcount))
        return found

    def executemany(self, sql: str, rows: Iterable[Sequence[object]]) -> int:
        rows = list(rows)
        if (write := _WRITE.match(sql)) and rows:
            self._writes.append((write[1], write[2], rows))
        return self._database.executemany(sql, rows)

    def transaction(self) -> AbstractContextManager[None]:
        return self._database.transaction()

    def reading(self) -> AbstractContextManager[None]:
        return self._database.reading()

    def exclusive(self, name: str) -> None:
        self._database.exclusive(name)

    def shared(self, name: str) -> None:
        self._database.shared(name)

    def enter_outbox(self) -> None:
        self._database.enter_outbox()

    def lock_rows(self, sql: str, parameters: Sequence[object] = ()) -> Cursor:
        return self._database.lock_rows(sql, parameters)

    def close(self) -> None:
        self._database.close()

    def handled(self, letter: int, sent: Iterable[Message]) -> Handled:
        state = [
            Changed(row[1], None if statement.upper().startswith("DELETE") else readable(row[2]))
            for statement, row in self._rows("state")
        ]
        return Handled(
            letter,
            transfers=[Transfer(*row[:6]) for _, row in self._rows("ledger_transfers")],
            emitted=[Emitted(each.topic, each.key, readable(each.value)) for each in sent],
            state=state,
            written=[
                Written(" ".join(statement.upper().split()), table, len(rows))
                for statement, table, rows in self._writes
                if table not in _OWN
            ],
        )

    def _rows(self, table: str) -> list[tuple[str, Sequence[Any]]]:
        return [
            (statement, row)
            for statement, found, rows in self._writes
            if found == table
            for row in rows
        ]
