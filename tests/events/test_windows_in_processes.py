"""Windows and timers of a pipeline in several processes: as in one, whoever hears what when."""

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from counterfoil import faults
from counterfoil.events import (
    Context,
    EmbeddedEvents,
    Events,
    EventsError,
    EventTime,
    Pipeline,
    PipelineRunner,
    Session,
    Share,
    StoreUnavailable,
    Superseded,
    Timer,
    Tumbling,
    Windowed,
    late_events,
)
from counterfoil.events.event_time import BELIEVED_US, NEVER, Watermark

from .test_windows import DISORDER, model
from .test_windows import fill as fill_topic
from .window_sums import (
    PATIENCE_SECONDS,
    READS,
    SECOND,
    SUMS,
    Clock,
    Died,
    Read,
    Sum,
    add,
    note,
    tell,
    time_of,
    told,
)

EVENT_TIME = EventTime(time_of, disorder_seconds=DISORDER, idle_seconds=None)
ENDS = [Read(end, 10_000) for end in "abcdefg"]
"""What closes all windows before it, in each partition."""


def windows(shape: Tumbling | Session, **more: object) -> Pipeline[Read]:
    made = Windowed(SUMS, READS, shape, Sum, add, event_time=EVENT_TIME, **more)  # type: ignore[arg-type]
    made.then(tell)
    made.merge(lambda one, other: Sum(one.amount + other.amount))
    return made.pipeline()


def fill(events: Events, reads: list[Read], first: int = 1) -> None:
    fill_topic(events, reads, source=READS, first=first)


def start(events: Events, pipeline: Pipeline[Read], of: int, clock: Clock) -> list[PipelineRunner]:
    return [
        PipelineRunner(events.log(), events.pipelines(), pipeline, clock.now_us, Share(number, of))
        for number in range(of)
    ]


@settings(max_examples=40, deadline=None)
@given(
    reads=st.lists(
        st.builds(Read, st.sampled_from("abc"), st.integers(0, 300), st.integers(1, 9)),
        min_size=1,
        max_size=40,
    ),
    shape=st.sampled_from([Tumbling(30), Session(15)]),
    one_key=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_any_processes_that_die_and_change_in_number_lead_to_the_windows_of_the_whole(
    reads: list[Read], shape: Tumbling | Session, *, one_key: bool, seed: int
) -> None:
    chance = random.Random(seed)
    order = sorted(reads, key=lambda read: (read.at + chance.uniform(0, DISORDER), read.meter))
    key = (lambda _: "all") if one_key else None
    pipeline = windows(shape, commit_limit=chance.randint(1, 5), key=key)
    clock, whole = Clock(), [*order, *ENDS]

    def reached(point: str) -> None:
        if point.startswith("pipeline.") and chance.random() < 0.1:
            raise Died

    with TemporaryDirectory() as folder, faults.observed(reached):
        events = EmbeddedEvents(Path(folder))
        runners: list[PipelineRunner] = []
        while whole:
            portion, whole = whole[: (number := chance.randint(1, 12))], whole[number:]
            fill(events, portion, first=10_000 - len(whole))
            quiet = 0
            while quiet < 3:
                clock.seconds += 2  # for what others have told meanwhile to be heard
                if not runners:
                    runners = start(events, pipeline, chance.randint(1, 2), clock)
                try:
                    moved = sum(each.step() for each in chance.sample(runners, len(runners)))
                except Died:
                    runners, moved = [], 1
                quiet = 0 if moved else quiet + 1
        store = events.pipelines()
        named = [Read("all", each.at, each.amount) for each in reads] if one_key else reads
        assert told(store) == model(shape, named)
        assert late_events(store, SUMS) == 0


def test_windows_that_processes_fill_at_the_same_time_hold_every_event_once(
    events: Events,
) -> None:
    """All in one window key, so that each commit may meet one of the other process."""
    chance = random.Random(5)
    reads = [Read(chance.choice("abcdefg"), n // 4, n) for n in range(600)]
    fill(events, [*reads, *ENDS])
    pipeline = windows(Tumbling(30), commit_limit=20, key=lambda _: "all")
    expected = model(Tumbling(30), [Read("all", each.at, each.amount) for each in reads])
    store, stop = events.pipelines(), threading.Event()

    def work(number: int) -> None:
        share = Share(number, 2)
        now_us = lambda: time.time_ns() // 1_000  # noqa: E731
        log = events.log()
        with closing(PipelineRunner(log, events.pipelines(), pipeline, now_us, share)) as runner:
            while not stop.is_set():
                with suppress(StoreUnavailable):  # the embedded store has one writer
                    runner.step()

    with ThreadPoolExecutor(2) as pool:
        working = [pool.submit(work, number) for number in range(2)]
        deadline = time.monotonic() + PATIENCE_SECONDS
        while len(told(store)) < len(expected) and not any(each.done() for each in working):
            time.sleep(0.05)
            assert time.monotonic() < deadline
        stop.set()
        for each in working:
            each.result(PATIENCE_SECONDS)
    assert told(store) == expected


def test_a_timer_is_fired_once_by_the_process_of_its_key_whoever_has_set_it(
    events: Events,
) -> None:
    def take(event: Read, context: Context) -> None:
        for key in "abcdefg":  # of which each process has some
            context.timers.set(
                "soon", context.now_us + event.at * SECOND, key=key, clock="processing"
            )

    fired: list[str] = []

    def fire(timer: Timer, context: Context) -> None:
        fired.append(timer.key)
        note(context, timer.key, "fired")

    pipeline = Pipeline("timers", READS, take, timer=fire)
    clock = Clock()
    fill(events, [Read("a", 30)])
    runners = start(events, pipeline, 2, clock)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not sum(each.step() for each in runners):
        assert time.monotonic() < deadline
    clock.seconds += 29
    assert [each.step() for each in runners] == [0, 0]
    clock.seconds += 1
    by = [each.step() for each in runners]
    assert sum(by) == 7 and all(by), "each has fired those of its keys"
    assert told(events.pipelines(), "timers") == dict.fromkeys("abcdefg", "fired")
    assert {READS.partition_of(key) for key in fired[: by[0]]} == {0}
    clock.seconds += 100
    assert [each.step() for each in runners] == [0, 0]


def test_a_new_number_of_processes_inherits_timers_and_watermark(events: Events) -> None:
    clock, deadline = Clock(), time.monotonic() + PATIENCE_SECONDS
    pipeline = windows(Tumbling(30))
    fill(events, [Read(each, at) for at in (10, 45) for each in "abcdefg"])
    before = start(events, pipeline, 2, clock)
    handled = 0
    while handled < 14:
        handled += sum(each.step() for each in before)
        assert time.monotonic() < deadline
    assert told(events.pipelines()) == {}, "the watermark is at 25 s"
    (after,) = start(events, pipeline, 1, clock)
    for each in before:
        clock.seconds += 2
        fill(events, [Read(each, 46) for each in "abcdefg"], first=100)
        with pytest.raises(Superseded):
            while True:
                each.step()
                assert time.monotonic() < deadline
    fill(events, ENDS, first=200)
    while len(told(events.pipelines())) < 14:
        after.step()
        assert time.monotonic() < deadline
    assert sum(int(each) for each in told(events.pipelines()).values()) == 14 * 2
    assert late_events(events.pipelines(), SUMS) == 0


def test_what_a_process_has_told_of_its_silence_is_believed_for_a_while(
    embedded: EmbeddedEvents,
) -> None:
    """Its partitions hold the watermark again when it tells no more: it may be dead."""
    idle_after = EventTime(time_of, disorder_seconds=0, idle_seconds=60)
    made = Windowed(SUMS, READS, Tumbling(30), Sum, add, event_time=idle_after)
    made.then(tell)
    clock = Clock()
    silent, speaking = reversed(start(embedded, made.pipeline(), 2, clock))
    key = next(key for key in "abcdefg" if READS.partition_of(key) == 0)
    for second in range(70):  # both listen, and one of them hears nothing
        fill(embedded, [Read(key, second)], first=second + 1)
        clock.seconds += 1
        silent.step()
        speaking.step()
    assert f"{key} 0" in told(embedded.pipelines()), "the silent one is left out"
    clock.seconds += 2 * BELIEVED_US // SECOND
    for second in range(70, 200):
        fill(embedded, [Read(key, second)], first=second + 1)
        speaking.step()
    assert f"{key} 60" not in told(embedded.pipelines()), "it says nothing, and may be dead"
    silent.step()
    clock.seconds += 2
    speaking.step()
    assert f"{key} 60" in told(embedded.pipelines())


def test_a_partition_of_another_process_holds_the_watermark_until_something_is_known() -> None:
    watermark = Watermark(EVENT_TIME, 2, Share(0, 2))
    watermark.observe(0, 100 * SECOND, 0)
    assert watermark.current_us() == NEVER


def test_event_time_that_goes_on_with_the_clock_is_refused_in_several_processes(
    embedded: EmbeddedEvents,
) -> None:
    event_time = EventTime(time_of, advance_when_idle=True)
    made = Windowed(SUMS, READS, Tumbling(30), Sum, add, event_time=event_time)
    made.then(tell)
    with pytest.raises(EventsError, match="leave advance_when_idle out"):
        start(embedded, made.pipeline(), 2, Clock())


def handled(runners: list[PipelineRunner], number: int) -> None:
    """Step until so many events and timers are handled."""
    deadline, moved = time.monotonic() + PATIENCE_SECONDS, 0
    while moved < number:
        moved += sum(each.step() for each in runners)
        assert time.monotonic() < deadline, f"{moved} of {number}"


def test_a_window_that_another_process_closes_during_a_commit_is_not_opened_again(
    events: Events,
) -> None:
    if isinstance(events, EmbeddedEvents):
        pytest.skip("one process writes at a time")
    first, second = _keys()
    clock, during = Clock(), list[PipelineRunner]()

    def add_and_let_another_close(total: Sum, event: Read) -> Sum:
        if event.at == 201 and during:
            handled([during.pop()], 1)
        return add(total, event)

    made = Windowed(
        SUMS,
        READS,
        Tumbling(30),
        Sum,
        add_and_let_another_close,
        event_time=EVENT_TIME,
        key=lambda each: "both" if each.at < 100 else each.meter,
    )
    made.then(tell)
    one, other = start(events, made.pipeline(), 2, clock)
    fill(events, [Read(first, 10), Read(second, 200)])
    handled([one, other], 2)
    fill(events, [Read(first, 200)], first=3)  # with which the first window closes
    fill(events, [Read(second, 201), Read(second, 11)], first=4)
    during.append(one)
    handled([other], 2)
    assert told(events.pipelines()) == {"both 0": "1"}
    assert late_events(events.pipelines(), SUMS) == 1


def _keys() -> tuple[str, str]:
    """A key of each of two processes."""
    by_partition = {READS.partition_of(key): key for key in "abcdefg"}
    return by_partition[0], by_partition[1]


def test_a_timer_that_another_process_is_moving_is_not_fired_meanwhile(events: Events) -> None:
    if isinstance(events, EmbeddedEvents):
        pytest.skip("one process writes at a time")
    own, foreign = _keys()
    clock, fired, during = Clock(), list[int](), list[int]()

    def take(event: Read, context: Context) -> None:
        context.timers.set("soon", event.at * SECOND, key=own, clock="processing")

    def fire(timer: Timer, context: Context) -> None:
        fired.append(timer.at_us // SECOND)

    pipeline = Pipeline("timers", READS, take, timer=fire)
    one, other = start(events, pipeline, 2, clock)
    fill(events, [Read(own, clock.seconds + 10)])
    handled([one], 1)
    clock.seconds += 10  # it is due, and about to be moved
    fill(events, [Read(foreign, clock.seconds + 50)], first=2)

    def reached(point: str) -> None:
        if point == "pipeline.before-commit" and not during:
            during.append(0)
            during.append(one.step())

    with faults.observed(reached):
        handled([other], 1)
    assert (during, fired) == ([0, 0], [])
    clock.seconds += 49
    assert one.step() == 0
    clock.seconds += 1
    handled([one], 1)
    assert fired == [1_000_000 + 60]
