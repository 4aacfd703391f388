"""Calls a pipeline's handler: retries, halved batches, and dead letters.

Timers are handled in the same way by their own handler, and so are their dead letters when they
come back through the pipeline's retry topic.
"""

from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from counterfoil.events import rows
from counterfoil.events.effects import Context, Effects, TimerContext
from counterfoil.events.errors import UNREADABLE, StoreUnavailable
from counterfoil.events.messages import Batch, Record
from counterfoil.events.outgoing import Outgoing, StatelessContext
from counterfoil.events.pipeline import Pipeline
from counterfoil.events.shares import ALL, Share
from counterfoil.events.timers import Timer, buried_timer
from counterfoil.events.topics import AnyTopic

Pair = tuple[Any, StatelessContext]
Bury = Callable[[Record, Exception, int, int], None]
"""Makes a record a dead letter: its error, the number of tries, the time in microseconds."""
Observe = Callable[[Record, Any, int], None]
"""Called before an event is handled; an exception fails the event, without retries."""


class Handling:
    """Runs the handler of `pipeline`, with its effects in `outgoing`."""

    def __init__(
        self,
        pipeline: Pipeline[Any],
        outgoing: Outgoing,
        context: Callable[[Record, int], StatelessContext],
        bury: Bury,
        observe: Observe | None = None,
        *,
        share: Share = ALL,
    ) -> None:
        self._pipeline = pipeline
        self._outgoing = outgoing
        self._context = context
        self._bury = bury
        self._observe = observe
        self._share = share
        self._decode = pipeline.source.codec.decode
        self._handler = pipeline.handler
        self._takes_more = bool(pipeline.timer or pipeline.tables or pipeline.joined)

    def run(self, batches: Iterable[Batch], now_us: int) -> None:
        """Handle every event, or make it a dead letter.

        Raises:
            StoreUnavailable: the database can't be used, which is no event's fault.
        """
        decode, context_of, batched = self._decode, self._context, self._pipeline.batch
        observe, takes_more = self._observe, self._takes_more
        handle, handler = self._outgoing.handle, self._handler
        pairs: list[Pair] = []
        for batch in batches:
            for record in batch.records:
                try:
                    if takes_more:
                        if self._take(record, now_us):
                            continue
                        decode = self._pipeline.stream_of(record).codec.decode
                    event = decode(record.value)
                except UNREADABLE as error:
                    self._bury(record, error, 1, now_us)
                    continue
                if observe is not None:
                    try:
                        observe(record, event, now_us)
                    except Exception as error:
                        self._bury(record, error, 1, now_us)
                        continue
                context = context_of(record, now_us)
                if batched:
                    pairs.append((event, context))
                    continue
                try:  # as `_try` does, inlined to save a call per event
                    handle(handler, event, context)
                    continue
                except StoreUnavailable:
                    raise
                except Exception as error:
                    if self._give_up(record, error, 1, now_us):
                        continue
                self._try(self._anew, record, now_us, context, failed=1)
        if pairs:
            self._handle_some([context for _, context in pairs], now_us, pairs)

    def fire(self, timer: Timer, now_us: int, before: Callable[[], None] | None = None) -> bool:
        """Call a timer's handler after `before`, or make it a dead letter; whether it succeeded.

        Raises:
            StoreUnavailable: the database can't be used, which is no timer's fault.
        """
        handler = self._pipeline.timer
        assert handler is not None, "a pipeline without a handler of timers has none"
        effects = self._outgoing
        assert isinstance(effects, Effects), "timers are state: a stateless pipeline has none"
        context = TimerContext(effects, timer, now_us)

        def work(timer: Timer, context: StatelessContext) -> None:
            if before is not None:
                before()
            handler(timer, context)

        buried = timer.record(self._pipeline.name, buried=True)
        return self._try(work, buried, now_us, timer, context)

    def _take(self, record: Record, now_us: int) -> bool:
        """Handle a record if it is no event: a timer's dead letter, or a row of a table."""
        pipeline = self._pipeline
        if pipeline.timer is not None and (timer := buried_timer(record)) is not None:
            self.fire(timer, now_us)
            return True
        table = rows.table_of(record, pipeline.tables)
        if table is not None:
            context = self._context(record, now_us)
            copies = self._share.all if rows.is_buried(record) else [self._share]
            self._try(_keep_row, rows.buried(record), now_us, context, table, copies)
        return table is not None

    def _handle_some(
        self, contexts: list[StatelessContext], now_us: int, pairs: list[Pair] | None = None
    ) -> None:
        """Handle events together, halving the batch on failure; `pairs` if they are fresh."""
        if len(contexts) == 1:
            self._try(self._anew, contexts[0].record, now_us, *contexts)
            return
        try:
            if pairs is None:
                self._outgoing.handle(self._anew, *contexts)
            else:
                self._outgoing.handle(self._handler, pairs)
        except StoreUnavailable:
            raise
        except Exception:
            half = len(contexts) // 2
            self._handle_some(contexts[:half], now_us)
            self._handle_some(contexts[half:], now_us)

    def _anew(self, *contexts: StatelessContext) -> None:
        """Call the handler with freshly decoded events: a failed try may have changed them."""
        pairs = [
            (self._pipeline.stream_of(each.record).codec.decode(each.record.value), each)
            for each in contexts
        ]
        if self._pipeline.batch:
            self._handler(pairs)
        else:
            self._handler(*pairs[0])

    def _try(
        self,
        handler: Callable[..., None],
        record: Record,
        now_us: int,
        *arguments: Any,
        failed: int = 0,
    ) -> bool:
        """Call a handler up to `tries` times, then bury the record; whether it was handled."""
        attempt = failed
        while True:
            attempt += 1
            try:
                self._outgoing.handle(handler, *arguments)
            except StoreUnavailable:
                raise  # not this event's fault
            except Exception as error:
                if self._give_up(record, error, attempt, now_us):
                    return False
            else:
                return True

    def _give_up(self, record: Record, error: Exception, attempt: int, now_us: int) -> bool:
        """Bury a record that has failed, unless it has tries left; whether it was buried."""
        undecodable = isinstance(error, msgspec.DecodeError | UnicodeDecodeError)
        if undecodable or attempt == self._pipeline.tries:
            self._bury(record, error, attempt, now_us)
            return True
        return False


def _keep_row(context: Context, table: AnyTopic, copies: Iterable[Share]) -> None:
    rows.keep(context.state, table, context.record, copies)
