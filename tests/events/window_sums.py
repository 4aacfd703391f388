"""Windows, timers and what tests need of both; run as a program, it may be killed at any moment."""

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from counterfoil.events import (
    Context,
    EmbeddedEvents,
    Events,
    EventTime,
    Message,
    Pipeline,
    PipelineRunner,
    PipelineStore,
    Timer,
    Topic,
    Tumbling,
    Window,
    Windowed,
)

PATIENCE_SECONDS = 30.0
SECOND = 1_000_000
SUMS = "sums"


class Read(msgspec.Struct, frozen=True):
    """What a meter was read at."""

    meter: str
    at: int
    """In seconds."""
    amount: int = 1


class Sum(msgspec.Struct):
    amount: int = 0


READS = Topic("reads", Read, partitions=2)


def time_of(event: Read) -> int:
    return event.at * SECOND


def add(total: Sum, event: Read) -> Sum:
    total.amount += event.amount
    return total


def tell(window: Window[Sum], context: Context) -> None:
    """Leaves a line for each time that a window is told, so that none is told twice unseen."""
    note(context, f"{window.key} {window.start_us // SECOND}", str(window.state.amount))


def note(context: Context, key: str, what: str) -> None:
    before = context.state.get(f"told {key}")
    lines = [] if before is None else [before.decode()]
    context.state.put(f"told {key}", ",".join([*lines, what]).encode())


def told(store: PipelineStore, pipeline: str = SUMS) -> dict[str, str]:
    rows = store.database.execute(
        "SELECT key, value FROM state WHERE pipeline = ? AND key LIKE 'told %'", (pipeline,)
    )
    return {key.removeprefix("told "): bytes(value).decode() for key, value in rows.fetchall()}


def messages(reads: Iterable[Read], first: int = 1) -> list[Message]:
    return [
        Message(number, READS.name, each.meter, READS.encode(each), {}, number)
        for number, each in enumerate(reads, first)
    ]


class Died(BaseException):
    """What a test raises where a process would be killed: nothing of it is used again."""


class Clock:
    """The time of processing, which stands still until it is moved."""

    def __init__(self) -> None:
        self.seconds = 1_000_000

    def now_us(self) -> int:
        return self.seconds * SECOND


@contextmanager
def running(
    events: Events, pipeline: Pipeline[Read], clock: Clock | None = None
) -> Iterator[PipelineRunner]:
    runner = PipelineRunner(events.log(), events.pipelines(), pipeline, (clock or Clock()).now_us)
    try:
        yield runner
    finally:
        runner.close()


def until(runner: PipelineRunner, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        runner.step()
        assert time.monotonic() < deadline


def to_rest(runner: PipelineRunner, number: int) -> None:
    """Step until so many events and timers are handled, and see that no more come."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    handled = 0
    while handled < number:
        handled += runner.step()
        assert time.monotonic() < deadline, f"{handled} of {number}"
    assert handled == number
    assert runner.step() == 0


def sums() -> Pipeline[Read]:
    """The sum of each meter and minute."""
    windowed = Windowed(
        SUMS, READS, Tumbling(60), Sum, add, event_time=EventTime(time_of, disorder_seconds=30)
    )
    windowed.then(tell)
    return windowed.pipeline()


def reminders() -> Pipeline[Read]:
    """A timer for each meter and second in which it was read, a minute later."""

    def take(event: Read, context: Context) -> None:
        context.timers.set(str(event.at), (event.at + 60) * SECOND)

    def remind(timer: Timer, context: Context) -> None:
        note(context, f"{timer.key} {timer.at_us // SECOND}", "reminded")

    return Pipeline(
        "reminders", READS, take, timer=remind, event_time=EventTime(time_of, disorder_seconds=30)
    )


def expected_sums(reads: Iterable[Read], watermark: int) -> dict[str, str]:
    """What closes by a watermark, from the sorted whole."""
    found: Counter[tuple[str, int]] = Counter()
    for each in reads:
        found[each.meter, each.at // 60 * 60] += each.amount
    return {
        f"{meter} {start}": str(amount)
        for (meter, start), amount in found.items()
        if start + 60 <= watermark
    }


def main() -> None:
    """Run both pipelines over what is in the log, until so many results were told."""
    events, number = EmbeddedEvents(Path(sys.argv[1])), int(sys.argv[2])
    store = events.pipelines()
    runners = [
        PipelineRunner(events.log(), events.pipelines(), each, Clock().now_us)
        for each in (sums(), reminders())
    ]
    deadline = time.monotonic() + PATIENCE_SECONDS
    while len(told(store)) + len(told(store, "reminders")) < number:
        for runner in runners:
            runner.step()
        if time.monotonic() > deadline:
            sys.exit("too slow")


if __name__ == "__main__":
    main()
