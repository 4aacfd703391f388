"""Hands events to a pipeline's handler: its tries, halved batches, and what no try can take."""

from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from counterfoil.events.errors import StoreUnavailable
from counterfoil.events.messages import Batch, Record
from counterfoil.events.outgoing import Outgoing, StatelessContext
from counterfoil.events.pipeline import Pipeline

Pair = tuple[Any, StatelessContext]
Bury = Callable[[Record, Exception, int, int], None]
"""Told of a record that is given up: its error, the number of tries, the time in microseconds."""


class Handling:
    """The handler of `pipeline`; what it does goes to `outgoing`."""

    def __init__(
        self,
        pipeline: Pipeline[Any],
        outgoing: Outgoing,
        context: Callable[[Record, int], StatelessContext],
        bury: Bury,
    ) -> None:
        self._pipeline = pipeline
        self._outgoing = outgoing
        self._context = context
        self._bury = bury
        self._decode = pipeline.source.decode
        self._handler = pipeline.handler

    def run(self, batches: Iterable[Batch], now_us: int) -> None:
        """Handle or bury every event.

        Raises:
            StoreUnavailable: the database can't be used, which is no event's fault.
        """
        decode, context_of, batched = self._decode, self._context, self._pipeline.batch
        pairs: list[Pair] = []
        for batch in batches:
            for record in batch.records:
                try:
                    event = decode(record.value)
                except (msgspec.DecodeError, UnicodeDecodeError) as error:
                    self._bury(record, error, 1, now_us)
                    continue
                context = context_of(record, now_us)
                if batched:
                    pairs.append((event, context))
                else:
                    self._handle_one(context, event, context)
        if pairs:
            self._handle_some(pairs)

    def _handle_some(self, pairs: list[Pair]) -> None:
        if len(pairs) == 1:
            self._handle_one(pairs[0][1], pairs)
            return
        try:
            self._outgoing.handle(self._handler, pairs)
        except StoreUnavailable:
            raise
        except Exception:
            half = len(pairs) // 2
            self._handle_some(pairs[:half])
            self._handle_some(pairs[half:])

    def _handle_one(self, context: StatelessContext, *arguments: Any) -> None:
        attempt = 0
        while True:
            attempt += 1
            try:
                self._outgoing.handle(self._handler, *arguments)
            except StoreUnavailable:
                raise  # not this event's fault
            except Exception as error:
                undecodable = isinstance(error, msgspec.DecodeError | UnicodeDecodeError)
                if undecodable or attempt == self._pipeline.tries:
                    self._bury(context.record, error, attempt, context.now_us)
                    return
            else:
                return
