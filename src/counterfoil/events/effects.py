"""The effects of one commit's handlers, buffered in memory until it ends.

State, transfers and messages are written together, one statement per table. The effects of a
handler that fails are dropped from the buffer. For a handler that runs its own SQL, the buffer is
flushed and a savepoint opened first.

If the database rejects such a joint write, it can't be attributed to one event. The commit is then
rolled back and its events are handled again `alone`: each in a savepoint that includes its writes,
so that the error fails one event only.
"""

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from counterfoil.events import rows
from counterfoil.events.database import Cursor
from counterfoil.events.errors import EventsError
from counterfoil.events.handlers import ENDINGS, ended
from counterfoil.events.ledger import Book, Ledger
from counterfoil.events.messages import Message, Record
from counterfoil.events.outgoing import Outgoing, StatelessContext
from counterfoil.events.pipeline_store import PipelineStore
from counterfoil.events.shared_state import SharedState
from counterfoil.events.shares import ALL, Share
from counterfoil.events.state import State
from counterfoil.events.timers import Clock, Timer, Timers, TimersOfRecord
from counterfoil.events.topics import AnyTopic, Topic

R = TypeVar("R")


class Context(StatelessContext):
    """What a handler may use; its effects commit with the event, or not at all."""

    __slots__ = ("_effects", "state")

    def __init__(self, effects: "Effects", record: Record, now_us: int) -> None:
        # Not by `super().__init__`: there is a context for each event.
        self.record = record
        self.now_us = now_us
        self.state = effects.state
        self._outgoing = self._effects = effects

    @property
    def ledger(self) -> Ledger:
        """The ledger, which records this event as the cause of its postings."""
        return Ledger(self._effects.book, self.record, self.now_us)

    @property
    def timers(self) -> TimersOfRecord:
        """Sets and cancels the pipeline's timers."""
        return TimersOfRecord(self._effects.timers, self.record)

    @property
    def watermark_us(self) -> int:
        """The event time before which all events have arrived, within the allowed disorder.

        An event's handler sees the value after the previous commit, a timer's that of this commit.

        Raises:
            EventsError: the pipeline is declared without event time.
        """
        if self._effects.watermark_us is None:
            raise EventsError(
                "this pipeline has no watermark", hint="declare event_time=EventTime(...) on it"
            )
        return self._effects.watermark_us

    def is_over(self, at_us: int) -> bool:
        """Whether event time has reached `at_us`: whether `at_us` is at or before the watermark.

        A False stays valid for the commit: if another process has moved the watermark that far
        meanwhile, the event is handled again.

        Raises:
            EventsError: the pipeline is declared without event time.
        """
        if at_us <= self.watermark_us:
            return True
        first_us = self._effects.not_over_us
        self._effects.not_over_us = at_us if first_us is None else min(first_us, at_us)
        return False

    def row(self, table: Topic[R], key: str) -> R | None:
        """The newest event of a key in a topic that the pipeline keeps as a table, or None.

        Raises:
            EventsError: the pipeline is declared without this table.
        """
        if table.name not in self._effects.tables:
            raise EventsError(
                f"this pipeline has no table {table.name!r}",
                hint="name it in its declaration: tables=[...]",
            )
        return rows.find(self.state, table, key, self._effects.copy)

    def execute(self, sql: str, parameters: Sequence[object] = ()) -> Cursor:
        """Run a statement on your own tables in the pipelines' database.

        It is part of the event's commit. As in a service, the SQL must suit the engines in use.
        Each event that runs statements needs a savepoint; state and ledger don't.

        Raises:
            StoreUnavailable: the database can't be used at the moment.
        """
        return self._effects.execute(sql, parameters)


class TimerContext(Context):
    """What a timer's handler may use.

    An event may set several timers and emit events itself. So the ids of what a timer's handler
    emits derive from the timer, the same if it fires again. The header `caused-by` has the id of
    the event that set the timer.
    """

    __slots__ = ("_part",)

    def __init__(self, effects: "Effects", timer: Timer, now_us: int) -> None:
        super().__init__(effects, timer.record(effects.pipeline), now_us)
        self._part = ("timer", timer.key, timer.name, timer.at_us)


class Effects(Outgoing):
    """State, transfers and messages of the current commit; one handler runs at a time."""

    def __init__(
        self,
        store: PipelineStore,
        pipeline: str,
        *,
        clocks: frozenset[Clock] = frozenset(),
        tables: Collection[AnyTopic] = (),
        partitions: int = 1,
        share: Share = ALL,
    ) -> None:
        super().__init__(pipeline)
        self.state = (State if share.of == 1 else SharedState)(store.database, pipeline)
        self.timers = Timers(store.database, pipeline, clocks, partitions, share)
        self.copy = share
        """The process whose copies of the tables are used."""
        self.tables = frozenset(table.name for table in tables)
        self.watermark_us: int | None = None
        self.not_over_us: int | None = None
        """The earliest time for which `is_over` has returned False."""
        self.book = Book(store.database, self.execute)
        self._database = store.database
        self._send: Callable[[Sequence[Message]], None] = store.send
        self._alone = False
        self._savepoint: AbstractContextManager[None] | None = None
        self._unwritten: Exception | None = None
        """The error of flushing earlier handlers' effects before a later handler's SQL.

        It is not that handler's failure: it fails the whole commit."""

    def begin(self, *, alone: bool) -> None:
        """A transaction has begun."""
        self._alone = alone
        self._unwritten = None
        self._forget_handler()
        self._commit.clear()
        self.state.begin()
        self.book.begin(careful=alone)

    def handle(self, work: Callable[..., None], *arguments: Any) -> None:
        """Run a handler; if it raises, its effects are discarded."""
        try:
            if self._alone:
                self._open()
                self.state.save()
            work(*arguments)
            self._accept()
        except ENDINGS as error:
            self._undo(error)
            raise ended(error) from error
        except BaseException as error:
            self._undo(error)
            raise

    def bury(self, message: Message) -> None:
        """Send a dead letter for an event whose handler failed."""
        super().bury(message)
        if self._alone:
            self.flush()

    def execute(self, sql: str, parameters: Sequence[object]) -> Cursor:
        """Run a statement in the running handler's savepoint."""
        if self._savepoint is None:
            try:
                self.flush()
            except Exception as error:
                self._unwritten = error
                raise
            self._open()
        return self._database.execute(sql, parameters)

    def flush(self) -> None:
        """Write the effects of the handlers that have succeeded."""
        if self._unwritten is not None:
            raise self._unwritten
        self.book.flush()
        self.state.flush()
        self.timers.flush()
        if self._commit:
            self._send(self.take())

    def finish(self) -> None:
        """Write the rest, and check that the state which handlers have read is unchanged.

        Raises:
            Contended: another process has changed it; the commit must be rolled back.
        """
        self.flush()
        self.state.check()

    def doubt(self) -> None:
        """The transaction was rolled back because another process changed state first."""
        self.state.doubt()
        self.timers.forget()

    def forget(self) -> None:
        """The transaction was rolled back, or another process has written."""
        self.state.forget()
        self.timers.forget()

    def _open(self) -> None:
        savepoint = self._database.transaction()
        savepoint.__enter__()
        self._savepoint = savepoint

    def _accept(self) -> None:
        self.state.accept()
        self.timers.accept()
        self.book.accept()
        if self._handler:
            self._commit += self._handler
            self._forget_handler()
        if self._savepoint is not None:
            if self._alone:
                self.flush()
            savepoint, self._savepoint = self._savepoint, None
            savepoint.__exit__(None, None, None)

    def _undo(self, error: BaseException) -> None:
        self.state.undo()
        self.timers.undo()
        self.book.undo()
        self._forget_handler()
        if self._alone:  # writes in the savepoint are rolled back with it
            self._unwritten = None
            self._commit.clear()
            self.state.roll_back()
            self.timers.forget()
            self.book.begin(careful=True)
        if self._savepoint is not None:
            savepoint, self._savepoint = self._savepoint, None
            savepoint.__exit__(type(error), error, error.__traceback__)
