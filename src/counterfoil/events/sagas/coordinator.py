"""Orchestration: one coordinator runs all instances of a saga, step by step.

Each commit contains a step's effects, its timeline entry and the next state, so a crash leaves all
three or none. Many instances share a commit, each with its own savepoint. A coordinator has the
fencing token of a lease: the newest token ever seen wins, so that an old coordinator that wakes up
can't commit. Handlers run inside the commit and must be quick: slow work, or work outside this
database, is requested by an event.
"""

import itertools
from collections.abc import Callable
from typing import Any, Final

import msgspec
import structlog

from counterfoil import faults
from counterfoil.events.dead_letters import bury, retry_topic
from counterfoil.events.effects import Effects
from counterfoil.events.errors import UNREADABLE, EventsError, Fenced, StoreUnavailable
from counterfoil.events.identity import identity_in
from counterfoil.events.log import EventLog
from counterfoil.events.messages import Batch, Record
from counterfoil.events.pipeline_store import PipelineStore
from counterfoil.events.sagas.context import StepContext, answer_headers
from counterfoil.events.sagas.hearing import Hearing
from counterfoil.events.sagas.instances import Direction, Forgetting, Instance, Instances
from counterfoil.events.sagas.progress import AFTER, Outcome, Progress, begun
from counterfoil.events.sagas.saga import Action, Saga, Step, StepFailed
from counterfoil.events.storable import storable

BATCH: Final = 500
"""Instances that are started, answered or continued in one commit."""
log = structlog.get_logger()


class SagaCoordinator:
    """One term of a saga's leader; make a new one for each term."""

    def __init__(
        self,
        event_log: EventLog,
        store: PipelineStore,
        saga: Saga[Any],
        *,
        fencing_token: int,
        now_us: Callable[[], int],
    ) -> None:
        if not saga.steps:
            raise EventsError(f"saga {saga.name} has no steps", hint="declare one with saga.step")
        self._store = store
        self._saga = saga
        self._fencing_token = fencing_token
        self._now_us = now_us
        self._instances = Instances(store.database)
        self._effects = Effects(store, saga.consumer)
        self._retries = retry_topic(saga.consumer)
        self._answers = {topic.name for topic in saga.answers()}
        self._forgetting = Forgetting(self._instances, saga.name, saga.retention_seconds)
        topics = [saga.source, *saga.own_topics()[:1], *saga.answers()]
        event_log.declare([*topics, *saga.own_topics()[1:], *saga.requests()])
        store.begin(saga.consumer, [saga.source, *saga.answers()], event_log)
        self._reader = event_log.reader(topics, lambda topic: store.positions(saga.consumer, topic))
        self._hearing = Hearing(event_log, self._reader, saga.answers())

    def step(self) -> int:
        """Handle new events, and continue the instances that are due; returns their number.

        Raises:
            Fenced: a newer token was seen; this term is over.
            StoreUnavailable, LogUnavailable: nothing was done; try again later.
        """
        forgotten = self._forgetting.step(self._now_us())
        batches = self._reader.fetch(BATCH)
        now_us, name = self._now_us(), self._saga.name
        try:
            late_us = self._instances.late(name, now_us, self._hearing.heard_us)
            heard_us = self._hearing.listen(late_us, now_us)
            if not batches and not self._instances.due(name, now_us, 1, heard_us=heard_us):
                return forgotten
            return self._commit(batches, now_us)
        except BaseException:
            self._rewind()
            raise

    def close(self) -> None:
        """Stop reading."""
        self._reader.close()

    def _commit(self, batches: list[Batch], now_us: int) -> int:
        try:
            try:
                moved = self._attempt(batches, now_us, alone=False)
            except (Fenced, StoreUnavailable):
                raise
            except Exception as error:
                log.info("steps_are_done_alone", saga=self._saga.name, why=str(error))
                moved = self._attempt(batches, now_us, alone=True)
        finally:
            # Another term may write before this one does again.
            self._effects.forget()
        faults.point("saga.after-commit")
        return moved

    def _attempt(self, batches: list[Batch], now_us: int, *, alone: bool) -> int:
        with self._store.database.transaction():
            # First: all coordinators write this row, so that duplicates wait for each other.
            if not self._instances.fence(self._saga.name, self._fencing_token):
                raise Fenced(
                    f"saga {self._saga.name}: token {self._fencing_token} is too old",
                    hint="another coordinator leads; this one must campaign again",
                )
            if not self._taken_up(batches):
                return 0
            self._effects.forget()
            self._effects.begin(alone=alone)
            records = list(itertools.chain.from_iterable(batch.records for batch in batches))
            for record in records:
                self._take_in(record, now_us)
            heard_us = self._hearing.heard_us
            due = self._instances.due(self._saga.name, now_us, BATCH, heard_us=heard_us)
            for instance in due:
                self._lead(instance, now_us)
            self._effects.flush()
            faults.point("saga.before-commit")
        return len(records) + len(due)

    def _taken_up(self, batches: list[Batch]) -> bool:
        try:
            with self._store.database.transaction():
                self._store.advance(self._saga.consumer, batches)
        except Fenced:  # the previous term has handled them since they were read
            self._rewind()
            return False
        return True

    def _rewind(self) -> None:
        self._reader.rewind()
        self._hearing.forget()

    def _take_in(self, record: Record, now_us: int) -> None:
        headers = record.headers
        ours = headers.get("saga") == self._saga.name and "saga-id" in headers
        if record.topic in self._answers:
            if ours:
                self._answer(record, now_us)
        elif record.topic == self._retries and ours:
            self._resume(record, now_us)
        else:
            self._begin(record, now_us)

    def _begin(self, record: Record, now_us: int) -> None:
        try:
            self._saga.source.decode(record.value)
        except UNREADABLE as error:
            name = self._saga.consumer
            letter = bury(self._store, name, record, error, tries=1, now_us=now_us)
            self._effects.bury(letter)
            return
        timeout = self._saga.timeout_seconds
        start = begun(now_us)
        instance = Instance(
            saga=self._saga.name,
            id=record.event_id,
            style="orchestration",
            status=start.status,
            step=self._saga.steps[0].name,
            tries=0,
            waiting=False,
            wake_us=start.due_us,
            deadline_us=None if timeout is None else now_us + int(timeout * 1_000_000),
            lines=0,
            error="",
            started_us=now_us,
            ended_us=None,
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            key=storable(record.key),
            value=record.value,
            headers=record.headers,
            timestamp_us=record.timestamp_us,
        )
        if not self._instances.add(instance):
            self._refuse_twin(record, now_us)

    def _refuse_twin(self, record: Record, now_us: int) -> None:
        """Make an event whose id is taken a dead letter, or it would silently be lost."""
        first = self._instances.find(self._saga.name, record.event_id)
        assert first is not None, "it is there, or this one had been added"
        taken = EventsError(
            f"event {record.event_id} has begun a saga before, as it was read from "
            f"{first.topic}/{first.partition}/{first.offset}",
            hint="discard it if it is the same event; else send it with an id of its own",
        )
        name = self._saga.consumer
        letter = bury(self._store, name, record, taken, tries=1, now_us=now_us)
        self._effects.bury(letter)

    def _answer(self, record: Record, now_us: int) -> None:
        """Give an answer to the step that waits for it; otherwise record it as late."""
        instance = self._named(record)
        if instance is None:
            return
        name = record.headers.get("saga-step", "")
        direction: Direction = "undo" if record.headers.get("saga-direction") == "undo" else "do"
        if instance.step != name or not self._awaits(instance, direction):
            self._instances.note(instance, name, "late", at_us=now_us, direction=direction)
            self._instances.save(instance)
            return
        try:
            progress = instance.progress(self._saga.steps)
        except EventsError as error:
            self._stick(instance, error, now_us)
        else:
            self._judge(instance, progress, record.value, now_us)

    def _awaits(self, instance: Instance, direction: Direction) -> bool:
        """Whether the current step of an instance still waits for its answer.

        A compensation's request is repeated: an answer between two tries counts too.
        """
        step = next((each for each in self._saga.steps if each.name == instance.step), None)
        going = {"running": "do", "compensating": "undo"}.get(instance.status)
        if step is None or going != direction:
            return False
        action = step.do if going == "do" else step.undo
        if action is None or action.ask is None:
            return False
        return instance.waiting or (going == "undo" and instance.tries > 0)

    def _judge(self, instance: Instance, progress: Progress, value: bytes, now_us: int) -> None:
        """Apply an answer; unless the step's check says otherwise, it means done."""
        if progress.status == "compensating":
            self._settle(instance, progress, "done", now_us)
            return
        step = self._saga.steps[progress.at]
        assert step.do.ask is not None, "it has asked"
        topic = step.do.ask.answer

        def look() -> None:
            context = self._context(instance, step, "do", now_us)
            answer = topic.decode(value)
            if step.check is not None:
                step.check(self._saga.source.decode(instance.value), answer, context)

        for attempt in range(1, step.do.tries + 1):
            try:
                self._effects.handle(look)
            except StoreUnavailable:
                raise  # not this answer's fault
            except StepFailed as error:
                self._settle(instance, progress, "refused", now_us, error=error)
                return
            except Exception as error:
                if attempt == step.do.tries or isinstance(error, msgspec.DecodeError):
                    self._settle(instance, progress, "unclear", now_us, error=error)
                    return
            else:
                result = topic.to_json(value)
                self._settle(instance, progress, "done", now_us, result=result)
                return

    def _named(self, record: Record) -> Instance | None:
        """The instance that a record's headers name; None if the id is invalid or unknown."""
        number = identity_in(record.headers["saga-id"])
        return None if number is None else self._instances.find(self._saga.name, number)

    def _resume(self, record: Record, now_us: int) -> None:
        """Continue a stuck saga whose dead letter was replayed.

        If the letter's value was edited, all further steps get the edited one.
        """
        instance = self._named(record)
        if instance is None or instance.status != "stuck":
            return
        direction: Direction = "undo" if record.headers.get("saga-direction") == "undo" else "do"
        self._instances.note(instance, instance.step, "resumed", at_us=now_us, direction=direction)
        instance.status = "running" if direction == "do" else "compensating"
        instance.tries, instance.wake_us = 0, now_us
        self._instances.save(instance)
        if record.value != instance.value:
            self._instances.replace_event(instance, record.value)

    def _lead(self, instance: Instance, now_us: int) -> None:
        """Run an instance's due action."""
        try:
            progress = instance.progress(self._saga.steps)
        except EventsError as error:
            self._stick(instance, error, now_us)
            return
        deadline = instance.deadline_us
        if progress.status == "running" and deadline is not None and deadline <= now_us:
            late = TimeoutError(f"the saga took more than {self._saga.timeout_seconds} s")
            self._settle(instance, progress, "overdue", now_us, error=late)
            return
        action = progress.action(self._saga.steps)
        if progress.waiting and action.ask is not None:
            late = TimeoutError(f"no answer in {action.ask.timeout_seconds} s")
            self._settle(instance, progress, "unanswered", now_us, error=late)
            return
        self._act(instance, progress, action, now_us)

    def _act(self, instance: Instance, progress: Progress, action: Action, now_us: int) -> None:
        step = self._saga.steps[progress.at]
        direction: Direction = "do" if progress.status == "running" else "undo"
        context = self._context(instance, step, direction, now_us)
        results: list[bytes] = []

        def act() -> None:
            value = action.handler(self._saga.source.decode(instance.value), context)
            faults.point(f"saga.{direction}.{step.name}")
            if action.ask is not None:
                context.ask(action.ask.request, value)
            else:
                results.append(msgspec.json.encode(value))

        try:
            self._effects.handle(act)
        except StoreUnavailable:
            raise  # not this step's fault
        except StepFailed as error:
            self._settle(instance, progress, "refused", now_us, error=error)
        except Exception as error:
            self._settle(instance, progress, "failed", now_us, error=error)
        else:
            if action.ask is not None:
                self._settle(instance, progress, "asked", now_us)
            else:
                self._settle(instance, progress, "done", now_us, result=results[0])

    def _settle(
        self,
        instance: Instance,
        progress: Progress,
        outcome: Outcome,
        now_us: int,
        *,
        error: Exception | None = None,
        result: bytes | None = None,
    ) -> None:
        """Record an outcome and the next state; a saga that is stuck makes a dead letter."""
        following = AFTER[outcome](self._saga.steps, progress, now_us)
        self._instances.note(
            instance,
            self._saga.steps[progress.at].name,
            outcome,
            at_us=now_us,
            direction="do" if progress.status == "running" else "undo",
            attempt=progress.tries + 1,
            error=f"{type(error).__name__}: {error}" if error else "",
            result=result,
        )
        if following.status == "stuck":
            reason = error or EventsError("the compensation was not answered")
            self._stick(instance, reason, now_us)
            return
        instance.status = following.status
        instance.step = self._saga.steps[following.at].name
        instance.tries, instance.waiting = following.tries, following.waiting
        instance.wake_us = following.due_us
        if following.status == "running" and instance.deadline_us and following.due_us:
            instance.wake_us = min(following.due_us, instance.deadline_us)
        instance.ended_us = now_us if following.ended else None
        self._instances.save(instance)

    def _stick(self, instance: Instance, error: Exception, now_us: int) -> None:
        """Mark an instance as stuck, with a dead letter whose replay continues it."""
        direction: Direction = "do" if instance.status == "running" else "undo"
        self._instances.note(
            instance,
            instance.step,
            "stuck",
            at_us=now_us,
            direction=direction,
            attempt=instance.tries + 1,
            error=f"{type(error).__name__}: {error}",
        )
        record = instance.record()
        headers = {**record.headers, **answer_headers(instance, instance.step, direction)}
        letter = bury(
            self._store,
            self._saga.consumer,
            msgspec.structs.replace(record, headers=headers),
            error,
            tries=instance.tries + 1,
            now_us=now_us,
        )
        instance.status, instance.waiting, instance.wake_us = "stuck", False, None
        self._instances.save(instance)
        self._effects.bury(letter)

    def _context(
        self, instance: Instance, step: Step[Any, Any], direction: Direction, now_us: int
    ) -> StepContext:
        return StepContext(
            self._effects, self._instances, instance, step.name, direction=direction, now_us=now_us
        )
