"""Task queues: unordered work, acknowledged task by task."""

from counterfoil.events.tasks.counts import TaskCounts, task_counts
from counterfoil.events.tasks.queue import Priority, TaskQueue
from counterfoil.events.tasks.worker import TaskWorker

__all__ = ["Priority", "TaskCounts", "TaskQueue", "TaskWorker", "task_counts"]
