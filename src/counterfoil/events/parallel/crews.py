"""Executors of parallel pipelines: threads for functions, an event loop for coroutines.

A worker that finishes an event starts the next of its lane itself, so that lanes don't wait for
commits. Any exception ends the work, also `SystemExit` and `CancelledError`: the lane goes on.
"""

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, Final, Protocol

from counterfoil.events.parallel.parallel import Parallel
from counterfoil.events.parallel.schedule import Item

STACK_BYTES: Final = 512 * 1024
Worked = Callable[[Item], list[Item]]
"""Called when the work of an event has ended; returns the events to start next."""


class Crew(Protocol):
    """Works on events."""

    def begin(self, items: list[Item]) -> None:
        """Start the work of some events."""
        ...

    def close(self) -> None:
        """Stop after finishing the work in progress."""
        ...


class Threads:
    """One thread per concurrent event."""

    def __init__(self, parallel: Parallel[Any, Any], worked: Worked) -> None:
        self._parallel = parallel
        self._worked = worked
        self._waiting: queue.SimpleQueue[Item | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._run, name=f"{parallel.name}-{number}", daemon=True)
            for number in range(parallel.concurrency)
        ]
        before = threading.stack_size(STACK_BYTES)
        try:
            for thread in self._threads:
                thread.start()
        finally:
            threading.stack_size(before)

    def begin(self, items: list[Item]) -> None:
        """Start the work of some events."""
        for item in items:
            self._waiting.put(item)

    def close(self) -> None:
        """Stop after finishing the work in progress."""
        for _ in self._threads:
            self._waiting.put(None)
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        item: Item | None = None
        while True:
            item = item or self._waiting.get()
            if item is None:
                return
            self._work(item)
            following = self._worked(item)
            item = following.pop() if following else None
            self.begin(following)

    def _work(self, item: Item) -> None:
        parallel = self._parallel
        while True:
            item.tries += 1
            try:
                item.result = parallel.work(item.event)
            except BaseException as error:
                if item.tries == parallel.tries:
                    item.error = _failure(error)
                    return
                time.sleep(parallel.backoff_seconds * 2 ** (item.tries - 1))
                item.event = parallel.source.decode(item.record.value)  # undo changes by the try
            else:
                return


class Loop:
    """An event loop in its own thread, with one task per concurrent event."""

    def __init__(self, parallel: Parallel[Any, Any], worked: Worked) -> None:
        self._parallel = parallel
        self._worked = worked
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name=parallel.name, daemon=True
        )
        self._thread.start()

    def begin(self, items: list[Item]) -> None:
        """Start the work of some events."""
        self._loop.call_soon_threadsafe(self._start, items)

    def close(self) -> None:
        """Stop after finishing the work in progress."""
        asyncio.run_coroutine_threadsafe(self._finish(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _start(self, items: list[Item]) -> None:
        for item in items:
            task = self._loop.create_task(self._run(item))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _finish(self) -> None:
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _run(self, item: Item | None) -> None:
        while item is not None:
            await self._work(item)
            following = self._worked(item)
            item = following.pop() if following else None
            self._start(following)

    async def _work(self, item: Item) -> None:
        parallel = self._parallel
        while True:
            item.tries += 1
            try:
                item.result = await parallel.work(item.event)
            except GeneratorExit:
                raise  # the loop is gone, and this coroutine with it
            except BaseException as error:
                if item.tries == parallel.tries:
                    item.error = _failure(error)
                    return
                await asyncio.sleep(parallel.backoff_seconds * 2 ** (item.tries - 1))
                item.event = parallel.source.decode(item.record.value)
            else:
                return


def _failure(error: BaseException) -> Exception:
    """The error for a dead letter."""
    if isinstance(error, Exception):
        return error
    failed = RuntimeError(f"the work ended with {type(error).__name__}: {error}")
    failed.__cause__ = error
    return failed
