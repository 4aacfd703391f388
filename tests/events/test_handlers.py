"""What handlers can do to their events and to their process, and what they can't be."""

import asyncio
from collections.abc import Callable
from contextlib import closing
from functools import partial
from typing import Any

import msgspec
import pytest

from counterfoil.events import (
    DeadLetters,
    Events,
    EventsError,
    EventTime,
    Joined,
    LogPipelineRunner,
    Parallel,
    Pipeline,
    PipelineRunner,
    Saga,
    TaskQueue,
    Topic,
    Tumbling,
    Windowed,
)
from counterfoil.events.log import ExchangeLog
from counterfoil.events.messages import Message

from .test_exactly_once import append, handle
from .test_parallel import running, until


class Bill(msgspec.Struct):
    """An event that handlers may change, as most are."""

    id: int
    amount: int


class Total(msgspec.Struct):
    amount: int = 0


BILLS = Topic("bills", Bill, partitions=1)
OTHERS = Topic("others", Bill, partitions=1)
PAID = Topic("paid", Bill, partitions=1)


def fill(events: Events, number: int) -> None:
    log = events.log()
    log.declare([BILLS, PAID])
    append(
        log,
        [
            Message(each, "bills", "k", BILLS.encode(Bill(each, 100)), {}, 1)
            for each in range(number)
        ],
    )


def runner_of(events: Events, handler: Callable[..., None], **more: Any) -> PipelineRunner:
    pipeline = Pipeline("p", BILLS, handler, **more)
    return PipelineRunner(events.log(), events.pipelines(), pipeline, lambda: 1)


def test_each_try_gets_the_event_as_it_was_sent(events: Events) -> None:
    fill(events, 3)
    seen: list[int] = []

    def add_the_fee(event: Bill, context: Any) -> None:
        event.amount += 5
        seen.append(event.amount)
        if event.id == 1 and seen.count(105) < 4:
            raise RuntimeError("not yet")

    with closing(runner_of(events, add_the_fee)) as runner:
        handle(runner, 3)
    assert seen == [105] * 5, "three tries of one, and one of each other"


def test_a_batch_handler_that_takes_its_list_apart_loses_nothing(events: Events) -> None:
    fill(events, 8)
    done: list[tuple[int, int]] = []

    def take_apart(pairs: list[tuple[Bill, Any]]) -> None:
        mine: list[tuple[int, int]] = []
        while pairs:
            event, _ = pairs.pop()
            event.amount += 5
            if event.id == 3:
                raise RuntimeError("poison")
            mine.append((event.id, event.amount))
        done.extend(mine)

    with closing(runner_of(events, take_apart, batch=True)) as runner:
        handle(runner, 8)
    assert sorted(done) == [(number, 105) for number in range(8) if number != 3]
    assert [letter.event_id for letter in DeadLetters(events.pipelines()).list()] == [3]


def test_each_try_of_parallel_work_gets_the_event_as_it_was_sent(events: Events) -> None:
    seen: list[int] = []

    def work(event: Bill) -> None:
        event.amount += 5
        seen.append(event.amount)
        if len(seen) < 3:
            raise RuntimeError("not yet")

    async def work_asynchronously(event: Bill) -> None:
        work(event)

    fill(events, 1)
    for name, each in (("threads", work), ("loop", work_asynchronously)):
        seen.clear()
        parallel: Parallel[Any, Any] = Parallel(name, BILLS, each, backoff_seconds=0.0)
        with running(events, parallel) as runner:
            until(runner, lambda: len(seen) == 3)
        assert seen == [105] * 3


@pytest.mark.parametrize("ending", [SystemExit, asyncio.CancelledError])
def test_an_event_that_ends_its_handler_like_a_process_is_a_dead_letter(
    events: Events, ending: type[BaseException]
) -> None:
    fill(events, 3)
    done: list[int] = []

    def end(event: Bill, context: Any) -> None:
        if event.id == 1:
            raise ending("out")
        done.append(event.id)

    with closing(runner_of(events, end)) as runner:
        handle(runner, 3)
    assert done == [0, 2], "the partition goes on"
    (letter,) = DeadLetters(events.pipelines()).list()
    assert letter.event_id == 1
    assert letter.error.startswith(f"HandlerEnded: the handler ended with {ending.__name__}")


def test_a_stateless_handler_ends_no_process_either(events: Events) -> None:
    fill(events, 2)
    tried: list[int] = []

    def end(event: Bill, context: Any) -> None:
        tried.append(event.id)
        if event.id == 0:
            raise SystemExit

    pipeline, log = Pipeline("p", BILLS, end, stateless=True), events.log()
    kind = LogPipelineRunner if isinstance(log, ExchangeLog) else PipelineRunner
    with closing(kind(log, events.pipelines(), pipeline, lambda: 1)) as runner:  # type: ignore[arg-type]
        handled = 0
        while handled < 2:
            handled += runner.step()
    assert tried == [0, 0, 0, 1]


async def waiting(*_: Any) -> None:
    """What nobody would wait for."""


def yielding(*_: Any) -> Any:
    """What nobody would iterate over."""
    yield


class Waiting:
    async def __call__(self, *_: Any) -> None:
        """A handler that is an object."""


AT = EventTime[Bill](lambda event: event.id)
DECLARED: dict[str, Callable[[Callable[..., Any]], object]] = {
    "a pipeline": lambda handler: Pipeline("p", BILLS, handler),
    "its timers": lambda handler: Pipeline("p", BILLS, print, timer=handler),
    "a join": lambda handler: Joined("p", BILLS, OTHERS, handler, within_seconds=1, event_time=AT),
    "a fold": lambda handler: Windowed("p", BILLS, Tumbling(1), Total, handler, event_time=AT),
    "what windows lead to": lambda handler: Windowed(
        "p", BILLS, Tumbling(1), Total, lambda total, _: total, event_time=AT
    ).then(handler),
    "results of work": lambda handler: Parallel("p", BILLS, waiting).then(handler),
    "results of tasks": lambda handler: TaskQueue("p", Bill, waiting).then(handler),
    "a step": lambda handler: Saga("p", BILLS).step()(handler),
    "a compensation": lambda handler: Saga("p", BILLS).step()(print).compensate()(handler),
    "an answer": lambda handler: (
        Saga("p", BILLS)
        .ask(BILLS, PAID, timeout_seconds=1)(lambda event, context: event)
        .answered(handler)
    ),
}


@pytest.mark.parametrize("declare", DECLARED.values(), ids=DECLARED.keys())
@pytest.mark.parametrize("handler", [waiting, yielding])
def test_a_handler_that_would_never_run_is_refused_where_it_is_declared(
    declare: Callable[[Callable[..., Any]], object], handler: Callable[..., Any]
) -> None:
    with pytest.raises(EventsError, match=r"is a (coroutine function|generator)"):
        declare(handler)


@pytest.mark.parametrize("handler", [partial(waiting, 1), Waiting()])
def test_what_wraps_a_coroutine_function_is_refused_too(handler: Callable[..., Any]) -> None:
    with pytest.raises(EventsError, match="is a coroutine function"):
        Pipeline("p", BILLS, handler)
