"""A task queue in a rehearsal: runs the due tasks, and waits for them.

In production, tasks run concurrently with everything else. Here a step ends when all due tasks have
ended, so that a rehearsal comes to rest while the clock stands still. As in production, a task's
function runs in a thread, or in an event loop of its own.
"""

import time
from typing import Any, Final

from counterfoil.errors import CounterfoilError
from counterfoil.events import PipelineRunner, TaskQueue, TaskWorker

PATIENCE_SECONDS: Final = 60.0
"""For the tasks under way: one that waits for a later action of the test would never end."""


class TaskNotDone(CounterfoilError):
    """A task takes longer than the rehearsal waits."""


class RehearsedQueue:
    """Takes tasks from their topic, and runs those that are due."""

    def __init__(
        self, queue: TaskQueue[Any], taking_over: PipelineRunner, worker: TaskWorker
    ) -> None:
        self._queue = queue
        self._taking_over = taking_over
        self._worker = worker

    def step(self) -> int:
        """Run what is due; returns the number of items processed.

        Raises:
            TaskNotDone: a task is still running after a minute.
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
        """End the worker's threads."""
        self._worker.close()
