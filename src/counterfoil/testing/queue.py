"""A task queue in a rehearsal: due tasks are run, and waited for.

In production tasks are worked on beside everything else. Here a step ends when all that was due has
ended, so that a rehearsal comes to rest, with the clock standing still. The function of a task runs
in a thread, or an event loop, of its own, as it does there.
"""

import time
from typing import Any, Final

from counterfoil.errors import CounterfoilError
from counterfoil.events import PipelineRunner, TaskQueue, TaskWorker

PATIENCE_SECONDS: Final = 60.0
"""For what is worked on at a time: a task that waits for what a test does later never ends."""


class TaskNotDone(CounterfoilError):
    """A task takes longer than a rehearsal waits."""


class RehearsedQueue:
    """Takes tasks over from their topic, and does those that are due."""

    def __init__(
        self, queue: TaskQueue[Any], taking_over: PipelineRunner, worker: TaskWorker
    ) -> None:
        self._queue = queue
        self._taking_over = taking_over
        self._worker = worker

    def step(self) -> int:
        """Do what is due; returns how much was moved.

        Raises:
            TaskNotDone: it is still worked on after a minute.
        """
        moved = self._taking_over.step()
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self._worker.has_work():
            moved += self._worker.step()
            if time.monotonic() > deadline:
                raise TaskNotDone(
                    f"a task of {self._queue.name} is not done after {PATIENCE_SECONDS:.0f} s",
                    hint="give what it calls a timeout",
                )
        return moved

    def close(self) -> None:
        """End the threads that do the work."""
        self._worker.close()
