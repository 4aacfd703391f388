"""Runs a parallel pipeline: fetch, work and commit are asynchronous.

A thread fetches while there is room, the crew works, and the caller of `step` commits what is done:
effects, positions, the offsets that are done beyond them, and a count of commits, in one
transaction for all events done meanwhile. The count is also the fence: a runner increments it at
its start, and a runner that finds an unexpected count can't commit any more.
"""

import threading
from collections.abc import Callable
from typing import Any, Final

import msgspec
import structlog

from counterfoil import faults
from counterfoil.events.dead_letters import bury
from counterfoil.events.effects import Context, Effects
from counterfoil.events.errors import (
    Fenced,
    RegistryUnavailable,
    StoreUnavailable,
)
from counterfoil.events.log import EventLog
from counterfoil.events.messages import Record
from counterfoil.events.parallel.crews import Crew, Loop, Threads
from counterfoil.events.parallel.hitters import HeavyHitters, HotKey, KeyLoad
from counterfoil.events.parallel.parallel import WINDOW_BYTES, Parallel
from counterfoil.events.parallel.schedule import ALONE, Item, Place, Positions, Schedule
from counterfoil.events.pipeline_store import PipelineStore
from counterfoil.events.terms import count_commit

GROUP: Final = 1_000
"""Maximum events whose effects share a commit."""
FETCH: Final = 500
WAIT_SECONDS: Final = 0.05
"""How long a step waits for finished work, and the fetching thread for room."""
RETRY_SECONDS: Final = 0.5
log = structlog.get_logger()


class ParallelRunner:
    """One term of a parallel pipeline; it owns log and store until it is closed."""

    def __init__(
        self,
        event_log: EventLog,
        store: PipelineStore,
        parallel: Parallel[Any, Any],
        now_us: Callable[[], int],
    ) -> None:
        self._store = store
        self._parallel = parallel
        self._now_us = now_us
        self._effects = Effects(store, parallel.name)
        self._hitters = HeavyHitters()
        self._changed = threading.Condition()
        """Guards the schedule and the counts of keys."""
        self._group: list[Item] = []
        """The events to commit, kept if a commit fails."""
        self._stopping = False
        self._failed: BaseException | None = None
        """The error of the last fetch, for the next step to raise."""
        self._ended: BaseException | None = None
        """The error that ended the fetching thread."""
        topics = parallel.topics()[:2]
        event_log.declare(parallel.topics())
        store.begin(parallel.name, topics[:1], event_log)
        with store.database.transaction():
            self._commits = count_commit(store.database, parallel.name)
            positions = {each.name: store.positions(parallel.name, each.name) for each in topics}
            self._schedule = Schedule(parallel.concurrency, self._stored_done())
        self._following = positions
        """The offsets up to which events were scheduled; after an error, reading restarts there."""
        self._reader = event_log.reader(topics, lambda topic: self._following[topic])
        crew = Loop if parallel.asynchronous else Threads
        self._crew: Crew = crew(parallel, self._worked)
        self._fetching = threading.Thread(
            target=self._fetch_on, args=(sum(each.partitions for each in topics),), daemon=True
        )
        self._fetching.start()

    def step(self) -> int:
        """Commit finished events, or wait a moment for some; returns their number.

        Raises:
            Fenced: another runner has begun; close this one.
            StoreUnavailable, LogUnavailable: nothing was committed; try again later.
            Exception: another error of fetching; close this runner if it persists.
        """
        with self._changed:
            if not self._stopping:
                self._raise_failure()
            if not self._group:
                self._group = self._schedule.take_worked(GROUP)
                if not self._group and not self._schedule.passable():
                    self._changed.wait(WAIT_SECONDS)
                    self._group = self._schedule.take_worked(GROUP)
            if not self._group and not self._schedule.passable():
                return 0
        positions = self._commit(self._group)
        committed, self._group = self._group, []
        with self._changed:
            self._schedule.durable(committed, positions)
            self._changed.notify_all()
        return len(committed)

    def hot_keys(self, number: int = 10) -> list[HotKey]:
        """The keys with most of the recent events, each with its share."""
        with self._changed:
            return self._hitters.top(number)

    def load(self, number: int = 10) -> list[KeyLoad]:
        """The hot keys, each with the number of its events that are waiting or at work."""
        with self._changed:
            hot = self._hitters.top(number)
            waiting = self._schedule.waiting({each.key for each in hot})
        return [KeyLoad(each.key, each.share, each.error, waiting[each.key]) for each in hot]

    @property
    def held(self) -> int:
        """Events in memory: at work, waiting, or done beyond a gap."""
        return self._schedule.held

    def close(self) -> None:
        """Stop fetching, finish the work in progress, commit it, and stop.

        An earlier error of fetching doesn't prevent the commit.

        Raises:
            Fenced, StoreUnavailable: the last work was not committed, and will be repeated.
        """
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._fetching.join()
        self._crew.close()
        self._reader.close()
        while self.step():
            continue

    def _raise_failure(self) -> None:
        if self._ended is not None:
            raise self._ended
        if self._failed is not None:
            error, self._failed = self._failed, None
            raise error

    def _fetch_on(self, sources: int) -> None:
        try:
            self._fetch(sources)
        except BaseException as error:
            self._ended = error

    def _fetch(self, sources: int) -> None:
        """Fetch while the window has room; each partition contributes its part of a fetch."""
        window = self._parallel.window
        limit = max(1, min(FETCH, window // (4 * sources)))
        while True:
            with self._changed:
                if self._stopping:
                    return
                held, content = self._schedule.held, self._schedule.held_bytes
                if held and (held + limit * sources > window or content > WINDOW_BYTES):
                    self._changed.wait(WAIT_SECONDS)
                    continue
            try:
                batches = self._reader.fetch(limit)
                groups = [[self._item(record) for record in batch.records] for batch in batches]
            except BaseException as error:
                self._reader.rewind()  # to `_following`: it may have moved on
                self._rest(RETRY_SECONDS, error)
                continue
            if not groups:
                self._rest(WAIT_SECONDS / 5)
                continue
            self._take_in(groups)
            for batch in batches:
                self._following[batch.topic][batch.partition] = batch.end

    def _rest(self, seconds: float, failed: BaseException | None = None) -> None:
        with self._changed:
            self._failed = failed or self._failed
            if not self._stopping:
                self._changed.wait(seconds)

    def _take_in(self, groups: list[list[Item]]) -> None:
        with self._changed:
            for items in groups:
                self._schedule.add(items)
                for item in items:
                    self._hitters.add(item.record.key)
            begun = self._begin()
        self._crew.begin(begun)

    def _begin(self) -> list[Item]:
        """The events to start; those that can't be decoded are finished at once."""
        begun: list[Item] = []
        while True:
            found = self._schedule.begin()
            unreadable = [item for item in found if item.error is not None]
            begun += [item for item in found if item.error is None]
            for item in unreadable:
                self._schedule.worked(item)
            if not unreadable:
                return begun
            self._changed.notify_all()

    def _worked(self, item: Item) -> list[Item]:
        with self._changed:
            self._schedule.worked(item)
            begun = [] if self._stopping else self._begin()
            self._changed.notify_all()
        return begun

    def _item(self, record: Record) -> Item:
        parallel = self._parallel
        lane = {
            "key": f"{record.topic}/{record.key}",
            "partition": f"{record.topic}/{record.partition}",
            "none": ALONE,
        }[parallel.order]
        try:
            event = parallel.source.decode(record.value)
            if parallel.subkey is not None:
                lane = f"{lane}/{parallel.subkey(event)}"
        except RegistryUnavailable:
            raise  # not this event's fault
        except Exception as error:
            item = Item(record, None, lane)
            item.error, item.tries = error, 1
            return item
        return Item(record, event, lane)

    def _commit(self, group: list[Item]) -> Positions:
        """Commit finished events; returns the committed positions."""
        try:
            try:
                positions = self._attempt(group, alone=False)
            except (Fenced, StoreUnavailable):
                raise
            except Exception as error:
                log.info("events_are_handled_alone", pipeline=self._parallel.name, why=str(error))
                self._effects.forget()
                positions = self._attempt(group, alone=True)
        except BaseException:
            self._effects.forget()
            raise
        faults.point("parallel.after-commit")
        return positions

    def _attempt(self, group: list[Item], *, alone: bool) -> Positions:
        with self._store.database.transaction():
            number = count_commit(self._store.database, self._parallel.name)
            if number != self._commits + 1:
                raise Fenced(
                    f"{self._parallel.name}: another runner has begun",
                    hint="run a parallel pipeline once",
                )
            now_us = self._now_us()
            self._effects.begin(alone=alone)
            for item in group:
                self._settle(item, now_us)
            self._effects.flush()
            with self._changed:
                positions = self._schedule.positions(group)
            self._store_positions(positions)
            faults.point("parallel.before-commit")
        self._commits = number
        return positions

    def _settle(self, item: Item, now_us: int) -> None:
        """Run the effects of one event, or make it a dead letter."""
        error, tries = item.error, item.tries
        effects = self._parallel.effects
        if error is None and effects is not None:
            for attempt in range(1, self._parallel.tries + 1):
                context = Context(self._effects, item.record, now_us)
                try:
                    self._effects.handle(effects, item.event, item.result, context)
                except StoreUnavailable:
                    raise  # not this event's fault
                except Exception as failure:
                    error, tries = failure, attempt
                else:
                    error = None
                    break
        if error is not None:
            name = self._parallel.name
            letter = bury(self._store, name, item.record, error, tries=tries, now_us=now_us)
            self._effects.bury(letter)

    def _store_positions(self, positions: Positions) -> None:
        name, database = self._parallel.name, self._store.database
        for (topic, partition), (following, beyond) in positions.items():
            self._store.store_positions(name, topic, {partition: following})
            database.execute(
                "INSERT INTO parallel_done VALUES (?, ?, ?, ?) "
                "ON CONFLICT (consumer, topic, partition) DO UPDATE SET offsets = excluded.offsets",
                (name, topic, partition, msgspec.json.encode(_gaps(following, beyond))),
            )

    def _stored_done(self) -> dict[Place, list[int]]:
        """The stored offsets that are done beyond the positions."""
        found: dict[Place, list[int]] = {}
        name = self._parallel.name
        for topic, partition, offsets in self._store.database.execute(
            "SELECT topic, partition, offsets FROM parallel_done WHERE consumer = ?", (name,)
        ).fetchall():
            following = self._store.positions(name, topic)[partition]
            gaps = msgspec.json.decode(offsets, type=list[int])
            found[topic, partition] = _offsets(following, gaps)
        return found


def _gaps(following: int, offsets: list[int]) -> list[int]:
    """Delta-encode offsets, to a byte or two each."""
    return [offset - before for before, offset in zip([following, *offsets], offsets, strict=False)]


def _offsets(following: int, gaps: list[int]) -> list[int]:
    offsets: list[int] = []
    for gap in gaps:
        following += gap
        offsets.append(following)
    return offsets
