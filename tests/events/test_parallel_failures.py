"""What goes wrong around the work: in the fetch, or by errors that are no `Exception`."""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from counterfoil.events import (
    DeadLetters,
    EmbeddedEvents,
    Events,
    LogUnavailable,
    Parallel,
    ParallelRunner,
    Record,
    StoreUnavailable,
    TaskQueue,
    TaskWorker,
    Topic,
)
from counterfoil.events.embedded import EmbeddedReader
from counterfoil.events.messages import Batch
from counterfoil.events.tasks.waiting import LEVELS, Waiting

from .test_exactly_once import PATIENCE_SECONDS, append
from .test_parallel import Call, call, running, until
from .test_tasks import Session

WIDE = Topic("calls", Call, partitions=3)


def fill(events: Events, numbers: range) -> None:
    log = events.log()
    log.declare([WIDE])
    append(log, [call(number) for number in numbers])


def break_once(runner: ParallelRunner) -> threading.Event:
    """Let a fetch fail once after it has read something; says when it has."""
    reader: Any = runner._reader
    broken = threading.Event()
    if isinstance(reader, EmbeddedReader):
        read = reader._log.read
        some: list[Record] = []

        def read_once(
            topic: str, partition: int, offset: int, limit: int, *, limit_bytes: float
        ) -> list[Record]:
            if some and not broken.is_set():
                broken.set()
                raise StoreUnavailable("SQLite: disk I/O error")
            found = read(topic, partition, offset, limit, limit_bytes=limit_bytes)
            some.extend(found)
            return found

        reader._log.read = read_once  # type: ignore[method-assign]
    else:
        consume = reader._consume

        def consume_once(limit: int, records: dict[Any, Any]) -> None:
            consume(limit, records)
            if records and not broken.is_set():
                broken.set()
                raise LogUnavailable("the broker went away")

        reader._consume = consume_once
    return broken


def test_a_fetch_that_fails_is_told_and_nothing_is_lost_or_done_twice(events: Events) -> None:
    done: Counter[int] = Counter()
    parallel = Parallel("calls", WIDE, lambda event: done.update([event.id]))
    fill(events, range(20))
    with running(events, parallel) as runner:
        until(runner, lambda: len(done) == 20)
        broken = break_once(runner)
        fill(events, range(20, 60))

        with pytest.raises((StoreUnavailable, LogUnavailable)):
            until(runner, lambda: False)
        assert broken.is_set()
        until(runner, lambda: len(done) == 60)
        until(runner, lambda: runner.held == 0)
        runner.close()
    assert set(done.values()) == {1}


def test_what_is_done_is_committed_at_the_end_though_no_more_can_be_fetched(
    embedded: EmbeddedEvents, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: Counter[int] = Counter()
    parallel = Parallel("calls", WIDE, lambda event: done.update([event.id]))
    fill(embedded, range(5))
    runner = ParallelRunner(embedded.log(), embedded.pipelines(), parallel, lambda: 1)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while done.total() < 5:
        time.sleep(0.01)
        assert time.monotonic() < deadline

    def away(limit: int) -> list[Batch]:
        raise LogUnavailable("the broker went away")

    monkeypatch.setattr(runner._reader, "fetch", away)
    while runner._failed is None:
        time.sleep(0.01)
        assert time.monotonic() < deadline
    runner.close()
    again = ParallelRunner(embedded.log(), embedded.pipelines(), parallel, lambda: 1)
    time.sleep(0.2)
    again.close()
    assert done == Counter(range(5)), "all was done once"


def test_an_error_that_ends_the_fetch_is_told_by_every_step(embedded: EmbeddedEvents) -> None:
    parallel = Parallel("calls", WIDE, lambda event: event.id)
    fill(embedded, range(0))
    with running(embedded, parallel) as runner:
        runner._take_in = None  # type: ignore[assignment, method-assign]
        fill(embedded, range(3))
        with pytest.raises(TypeError):
            until(runner, lambda: False)
        with pytest.raises(TypeError):
            runner.step()


def leave(event: Call) -> int:
    if event.id == 0:
        raise SystemExit(1)
    return event.id


async def leave_asynchronously(event: Call) -> int:
    if event.id == 0:
        raise SystemExit(1)
    return event.id


async def be_cancelled(event: Call) -> int:
    if event.id == 0:
        raise asyncio.CancelledError
    return event.id


@pytest.mark.parametrize("work", [leave, leave_asynchronously, be_cancelled])
def test_work_that_ends_in_no_ordinary_error_is_a_dead_letter_and_its_lane_goes_on(
    embedded: EmbeddedEvents, work: Callable[[Call], object]
) -> None:
    fill(embedded, range(4))
    parallel = Parallel("calls", WIDE, work, tries=2, backoff_seconds=0.0, order="partition")
    with running(embedded, parallel) as runner:
        until(runner, lambda: sum(embedded.pipelines().positions("calls", "calls").values()) == 4)
        runner.close()
    (letter,) = DeadLetters(embedded.pipelines()).list()
    assert (letter.event_id, letter.tries) == (0, 2)
    assert letter.error.startswith("RuntimeError: the work ended with")


@pytest.mark.parametrize("work", [leave, be_cancelled])
def test_a_task_that_ends_in_no_ordinary_error_is_a_dead_letter(
    embedded: EmbeddedEvents, work: Callable[[Call], object]
) -> None:
    queue = TaskQueue("calls", Call, work, tries=1, concurrency=1)
    embedded.log().declare(queue.pipeline().topics())
    database = embedded.pipelines().database
    worker = TaskWorker(embedded.pipelines(), queue, lambda: 1)
    for number in (0, 1):
        task = msgspec.json.encode(Call(number, "k"))
        Waiting(Session(database), "calls").add(
            task, level=LEVELS["normal"], visible_us=0, unique=None
        )
    deadline = time.monotonic() + PATIENCE_SECONDS
    while database.execute("SELECT count(*) FROM tasks").fetchone() != (0,):
        worker.step()
        assert time.monotonic() < deadline
    worker.close()
    (letter,) = DeadLetters(embedded.pipelines()).list()
    assert letter.error.startswith("RuntimeError: the work ended with")
