"""The worker of a task queue: leases tasks, renews the leases, acknowledges.

The thread that calls `step` does all database work, while the crew runs the tasks. A task is
acknowledged in one commit with its effects, its dead letter, or the time of its next try. That
commit names the attempt: if the lease has expired and another worker has the task, it has no
effect.
"""

import threading
import time
from collections.abc import Callable
from typing import Any, Final

import msgspec
import structlog

from counterfoil import faults
from counterfoil.events.dead_letters import bury
from counterfoil.events.effects import Context, Effects
from counterfoil.events.errors import UNREADABLE, StoreUnavailable, TaskAbandoned
from counterfoil.events.identity import identity_of
from counterfoil.events.messages import Record
from counterfoil.events.parallel.crews import Crew, Loop, Threads
from counterfoil.events.parallel.parallel import Parallel
from counterfoil.events.parallel.schedule import ALONE, Item
from counterfoil.events.pipeline_store import PipelineStore
from counterfoil.events.tasks.queue import PRIORITIES, Sent, TaskQueue
from counterfoil.events.tasks.waiting import Taking, Task
from counterfoil.events.topics import Topic

POLL_SECONDS: Final = 0.02
"""Interval of polling for due tasks: a task starts at most so much late, apart from the time of a
commit."""
EXTENSIONS: Final = 3
"""Renewals in the time of a lease: two may fail."""
DRAIN_SECONDS: Final = 5.0
"""How long a worker that stops waits for its tasks; unfinished ones are returned to the queue."""
log = structlog.get_logger()


class TaskWorker:
    """A worker on one queue; others may run beside it, in other processes too."""

    def __init__(
        self, store: PipelineStore, queue: TaskQueue[Any], now_us: Callable[[], int]
    ) -> None:
        self._store = store
        self._queue = queue
        self._now_us = now_us
        self._taking = Taking(store.database, queue.name)
        self._effects = Effects(store, queue.consumer)
        self._changed = threading.Condition()
        """Guards `_at_work` and `_ended`."""
        self._at_work: dict[int, tuple[Item, Task, int]] = {}
        """By the item's `id()`: the item, its task, and its start in terms of `_lived_us`."""
        self._ended: list[Item] = []
        self._extended_us = self._looked_us = now_us()
        self._lived_us = 0
        """This worker's age, unaffected by clock jumps, which must not make tasks seem to hang."""
        self._closing = False
        one_try: Parallel[Any, Any] = Parallel(
            queue.consumer,
            Topic(queue.consumer, queue.type),
            queue.work,
            order="none",
            concurrency=queue.concurrency,
            tries=1,
        )
        crew = Loop if one_try.asynchronous else Threads
        self._crew: Crew = crew(one_try, self._worked)

    def step(self) -> int:
        """Acknowledge finished tasks, renew the leases of others, and take new ones.

        Returns how many tasks were acknowledged or taken; waits a moment if there were none.

        Raises:
            StoreUnavailable: the database failed; try again later.
        """
        with self._changed:
            ended = list(self._ended)
        if ended:
            self._acknowledge(ended)
        self._extend()
        taken = self._take()
        if not ended and not taken:
            with self._changed:
                if not self._ended:
                    self._changed.wait(POLL_SECONDS)
        return len(ended) + taken

    def has_work(self) -> bool:
        """Whether a task is at work or due."""
        return bool(self._at_work) or self._taking.due(self._now_us())

    def close(self) -> None:
        """Take no more tasks, wait up to `DRAIN_SECONDS` for running ones, return the rest.

        Raises:
            StoreUnavailable: others get the tasks when their leases expire.
        """
        self._closing = True
        deadline = time.monotonic() + DRAIN_SECONDS
        while self._at_work and time.monotonic() < deadline:
            self.step()
        with self._store.database.transaction():
            for _, task, _ in self._at_work.values():
                self._taking.leave(task, self._now_us())
        if not self._at_work:
            self._crew.close()

    def _worked(self, item: Item) -> list[Item]:
        with self._changed:
            self._ended.append(item)
            self._changed.notify_all()
        return []

    def _take(self) -> int:
        room = self._queue.concurrency - len(self._at_work)
        now_us = self._now_us()
        if self._closing or room <= 0 or not self._taking.due(now_us):
            return 0
        with self._store.database.transaction():
            tasks = self._taking.take(now_us, self._lease_us(now_us), room)
        for task in tasks:
            item = self._item(task)
            self._at_work[id(item)] = (item, task, self._lived_us)
            if item.error is None:
                self._crew.begin([item])
            else:
                self._worked(item)
        return len(tasks)

    def _lease_us(self, now_us: int) -> int:
        return now_us + int(self._queue.visibility_seconds * 1_000_000)

    def _extend(self) -> None:
        """Renew the leases of tasks that have not exceeded the limit; others' expire."""
        now_us, visible_us = self._now_us(), int(self._queue.visibility_seconds * 1_000_000)
        self._lived_us += min(max(now_us - self._looked_us, 0), visible_us)
        self._looked_us = now_us
        pause_us = visible_us // EXTENSIONS
        if not self._at_work or 0 <= now_us - self._extended_us < pause_us:
            return  # if the clock was set back, renew at once
        limit_us = int(self._queue.limit_seconds * 1_000_000)
        lived_us = self._lived_us
        kept = [task for _, task, since in self._at_work.values() if lived_us - since < limit_us]
        with self._store.database.transaction():
            self._taking.extend(kept, self._lease_us(now_us))
        self._extended_us = now_us

    def _item(self, task: Task) -> Item:
        record = Record(
            topic=self._queue.consumer,
            partition=0,
            offset=task.id,
            event_id=identity_of("task", self._queue.name, task.id),
            key="",
            value=task.content,
            headers={},
            timestamp_us=task.sent_us,
        )
        item = Item(record, None, ALONE)
        if task.attempt > self._queue.tries:
            item.error = TaskAbandoned(f"{task.attempt - 1} workers have died or hung with it")
            return item
        try:
            item.event = msgspec.json.decode(task.content, type=self._queue.type)
        except UNREADABLE as error:
            item.error = error  # sent by a program whose type of task differs
        return item

    def _acknowledge(self, ended: list[Item]) -> None:
        try:
            try:
                self._attempt(ended, alone=False)
            except StoreUnavailable:
                raise
            except Exception as error:
                log.info("tasks_are_settled_alone", queue=self._queue.name, why=str(error))
                self._effects.forget()
                self._attempt(ended, alone=True)
        finally:
            self._effects.forget()  # other workers write the same state
        faults.point("tasks.after-commit")
        with self._changed:
            for item in ended:
                self._ended.remove(item)
                del self._at_work[id(item)]

    def _attempt(self, ended: list[Item], *, alone: bool) -> None:
        now_us = self._now_us()
        with self._store.database.transaction():
            self._effects.begin(alone=alone)
            if self._queue.effects is not None:
                # Keyed state is read and written back, so workers acknowledge one at a time.
                self._store.database.exclusive(self._queue.consumer)
            for item in ended:
                self._settle(item, self._at_work[id(item)][1], now_us)
            self._effects.flush()
            faults.point("tasks.before-commit")

    def _settle(self, item: Item, task: Task, now_us: int) -> None:
        error, effects = item.error, self._queue.effects
        if error is None:
            if not self._taking.finish(task):
                log.warning("task_was_taken_by_another", queue=self._queue.name, task=task.id)
                return
            if effects is None:
                return
            context = Context(self._effects, item.record, now_us)
            try:
                self._effects.handle(effects, item.event, item.result, context)
            except StoreUnavailable:
                raise  # not this task's fault
            except Exception as failure:
                self._bury(item, failure, task, now_us)
        elif task.attempt < self._queue.tries:
            self._taking.give_back(task, now_us + self._queue.wait_us(task.attempt))
        elif self._taking.finish(task):
            self._bury(item, error, task, now_us)

    def _bury(self, item: Item, error: Exception, task: Task, now_us: int) -> None:
        """Make a dead letter whose replay sends the task again, with priority and unique key."""
        sent = Sent(msgspec.Raw(task.content), 0, PRIORITIES[task.level], task.unique)
        record = msgspec.structs.replace(item.record, value=msgspec.json.encode(sent))
        name = self._queue.consumer
        letter = bury(self._store, name, record, error, tries=task.attempt, now_us=now_us)
        self._effects.bury(letter)
