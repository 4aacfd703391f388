"""Timers on both engines: in order, each once, by the clock that they were set on."""

from collections.abc import Callable
from typing import Any

import pytest

from counterfoil import faults
from counterfoil.events import (
    Context,
    DeadLetters,
    EmbeddedEvents,
    Events,
    EventsError,
    EventTime,
    Pipeline,
    StoreUnavailable,
    Timer,
    Topic,
    handle,
)
from counterfoil.events.event_time import NEVER
from events.test_exactly_once import append
from events.window_sums import (
    SECOND,
    Clock,
    Read,
    messages,
    note,
    running,
    time_of,
    to_rest,
    told,
    until,
)

ONE = Topic("reads", Read, partitions=1)
TimerHandler = Callable[[Timer, Context], None]


def fill(events: Events, reads: list[Read], first: int = 1) -> None:
    log = events.log()
    log.declare([ONE])
    append(log, messages(reads, first))


def remember(order: list[tuple[int, str, str]]) -> TimerHandler:
    """Notes what fires: in memory its order, in the state how often."""

    def fired(timer: Timer, context: Context) -> None:
        order.append((timer.at_us // SECOND, timer.key, timer.name))
        note(context, f"{timer.key} {timer.name}", str(timer.at_us // SECOND))

    return fired


def set_by_event(event: Read, context: Context) -> None:
    context.timers.set("soon", (event.at + event.amount) * SECOND)


def pipeline(
    handler: Callable[[Read, Context], None], fired: TimerHandler | None, **more: Any
) -> Pipeline[Read]:
    return Pipeline("timed", ONE, handler, timer=fired, **more)


def timed(events: Events) -> dict[str, str]:
    return told(events.pipelines(), "timed")


def test_timers_of_event_time_fire_in_order_once_the_watermark_has_passed_them(
    events: Events,
) -> None:
    order: list[tuple[int, str, str]] = []
    made = pipeline(
        set_by_event, remember(order), event_time=EventTime(time_of, disorder_seconds=5)
    )
    fill(events, [Read("b", 10, 20), Read("c", 12, 3), Read("a", 20, 10)])
    with running(events, made) as runner:
        to_rest(runner, 3 + 1)
        assert order == [(15, "c", "soon")], "the watermark is at 15 s"
        fill(events, [Read("z", 35, 100)], first=4)
        to_rest(runner, 1 + 2)
        assert order[1:] == [(30, "a", "soon"), (30, "b", "soon")]
    with running(events, made) as runner:
        fill(events, [Read("z", 200, 100)], first=5)
        to_rest(runner, 1)
    assert timed(events) == {"a soon": "30", "b soon": "30", "c soon": "15"}


def test_timers_of_processing_time_fire_without_events(events: Events) -> None:
    order: list[tuple[int, str, str]] = []
    clock = Clock()

    def take(event: Read, context: Context) -> None:
        at_us = context.now_us + event.amount * SECOND
        context.timers.set("later", at_us, payload=b"p", clock="processing")

    fill(events, [Read("a", 1, 10), Read("b", 1, 5), Read("c", 1, 1_000)])
    with running(events, pipeline(take, remember(order)), clock) as runner:
        to_rest(runner, 3)
        began = clock.seconds
        clock.seconds += 20
        to_rest(runner, 2)
        assert order == [(began + 5, "b", "later"), (began + 10, "a", "later")]
    clock.seconds += 1_000
    with running(events, pipeline(take, remember(order)), clock) as runner:
        to_rest(runner, 1)
    assert [key for _, key, _ in order] == ["b", "a", "c"]


def test_a_timer_that_another_has_set_fires_though_the_clock_was_set_back(
    events: Events,
) -> None:
    order: list[tuple[int, str, str]] = []
    clock = Clock()
    made = pipeline(lambda event, context: None, remember(order))
    with running(events, made, clock) as runner:
        assert runner.step() == 0
        clock.seconds -= 3_600
        assert runner.step() == 0
        database = events.pipelines().database
        timer = ("timed", "a", "due", "processing", clock.now_us(), 1, b"", 0)
        database.execute("INSERT INTO timers VALUES (?, ?, ?, ?, ?, ?, ?, ?)", timer)
        clock.seconds += 1
        until(runner, lambda: bool(order))
    assert timed(events) == {"a due": str(clock.seconds - 1)}


def test_a_timer_is_moved_by_setting_it_again_and_does_not_fire_once_it_is_cancelled(
    events: Events,
) -> None:
    def take(event: Read, context: Context) -> None:
        if event.amount == 0:
            context.timers.cancel("soon")
        else:
            set_by_event(event, context)
            context.timers.set("other", event.at * SECOND, key="all")

    made = pipeline(take, remember([]), event_time=EventTime(time_of))
    fill(events, [Read("a", 10, 5), Read("b", 10, 5), Read("a", 12, 10), Read("b", 13, 0)])
    with running(events, made) as runner:
        to_rest(runner, 4 + 1)
        assert timed(events) == {"all other": "12"}
        fill(events, [Read("c", 100, 0)], first=5)
        to_rest(runner, 1 + 1)
    assert timed(events) == {"all other": "12", "a soon": "22"}


def test_a_commit_fires_a_bounded_number_and_takes_no_events_before_the_rest_has_fired(
    embedded: EmbeddedEvents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("counterfoil.events.timing.FIRED", 3)
    order: list[tuple[int, str, str]] = []

    def take(event: Read, context: Context) -> None:
        order.append((event.at, "event", ""))
        set_by_event(event, context)

    made = pipeline(take, remember(order), event_time=EventTime(time_of), commit_limit=8)
    reads = [Read(f"k{7 - n}", 10, 1) for n in range(7)]
    fill(embedded, [*reads, Read("z", 50, 100), Read("z", 51, 100)])
    with running(embedded, made) as runner:
        assert [runner.step() for _ in range(5)] == [8 + 3, 3, 1, 1, 0]
    fired = [key for at, key, _ in order if at == 11]
    assert fired == [f"k{n}" for n in range(1, 8)]
    assert order[-1] == (51, "event", ""), "after all that was due before it"


def test_what_timers_set_and_cancel_takes_its_place_among_those_that_are_due(
    events: Events,
) -> None:
    order: list[tuple[int, str, str]] = []
    remembered = remember(order)

    def fired(timer: Timer, context: Context) -> None:
        remembered(timer, context)
        if timer.name == "soon":
            context.timers.set("between", 12 * SECOND)
            context.timers.cancel("soon", key="c")

    made = pipeline(set_by_event, fired, event_time=EventTime(time_of))
    fill(events, [Read("a", 10, 1), Read("b", 10, 3), Read("c", 10, 5), Read("z", 90, 100)])
    with running(events, made) as runner:
        to_rest(runner, 4 + 4)
    assert order == [
        (11, "a", "soon"),
        (12, "a", "between"),
        (13, "b", "soon"),
        (12, "b", "between"),
    ]


def test_a_timer_that_fails_is_a_dead_letter_and_the_others_fire(events: Events) -> None:
    broken = True

    def fired(timer: Timer, context: Context) -> None:
        note(context, f"{timer.key} {timer.name}", timer.payload.decode())
        if broken and timer.key == "b":
            context.state.put("\ud800", b"no database keeps half of a character")

    def take(event: Read, context: Context) -> None:
        context.timers.set("soon", event.at * SECOND, payload=f'"{event.amount}"'.encode())

    made = pipeline(take, fired, event_time=EventTime(time_of))
    fill(events, [Read("a", 10, 1), Read("b", 11, 2), Read("c", 12, 3)])
    letters = DeadLetters(events.pipelines())
    with running(events, made) as runner:
        to_rest(runner, 3 + 3)
        assert timed(events) == {"a soon": '"1"', "c soon": '"3"'}
        (letter,) = letters.list()
        assert (letter.topic, letter.key, letter.event_id) == ("timed.timers", "b", 2)
        broken = False
        handle(letters, letter.id, made, 1)
        assert timed(events) == {"a soon": '"1"', "b soon": '"2"', "c soon": '"3"'}
        assert runner.step() == 0


def test_a_twin_fires_nothing_again(events: Events) -> None:
    clock = Clock()

    def take(event: Read, context: Context) -> None:
        context.timers.set("later", context.now_us + 5 * SECOND, clock="processing")

    made = pipeline(take, remember([]))
    fill(events, [Read("a", 1), Read("b", 1)])
    with running(events, made, clock) as first, running(events, made, clock) as second:
        to_rest(first, 2)
        second.step()
        clock.seconds += 10
        second._reader.rewind()
        to_rest(first, 2)
        assert second.step() == 0
    began = clock.seconds - 10
    assert timed(events) == {"a later": str(began + 5), "b later": str(began + 5)}


def test_a_timer_that_could_never_fire_is_refused(embedded: EmbeddedEvents) -> None:
    def fails(clock: str, match: str) -> Callable[[Read, Context], None]:
        def take(event: Read, context: Context) -> None:
            with pytest.raises(EventsError, match=match):
                context.timers.set("t", 1, clock=clock)  # type: ignore[arg-type]
            with pytest.raises(EventsError, match="no watermark"):
                _ = context.watermark_us
            refused.append(event)

        return take

    refused: list[Read] = []
    fill(embedded, [Read("a", 1)])
    with running(embedded, pipeline(fails("processing", "no handler of timers"), None)) as runner:
        to_rest(runner, 1)
    fill(embedded, [Read("a", 1)], first=2)
    with running(embedded, pipeline(fails("event", "no event time"), remember([]))) as runner:
        to_rest(runner, 1)
    assert len(refused) == 2
    with pytest.raises(EventsError, match="are state"):
        Pipeline("timed", ONE, set_by_event, timer=remember([]), stateless=True)


def test_a_timer_that_no_database_could_keep_is_its_events_failure(
    embedded: EmbeddedEvents,
) -> None:
    strange: dict[str, Any] = {"float": 1.5, "text": 1, "huge": 1 << 70}

    def take(event: Read, context: Context) -> None:
        payload: Any = "text" if event.meter == "text" else b""
        context.timers.set("t", strange.get(event.meter, 1), payload=payload)

    made = pipeline(take, remember([]), event_time=EventTime(time_of))
    fill(embedded, [Read("float", 1), Read("text", 2), Read("huge", 3), Read("a", 4)])
    with running(embedded, made) as runner:
        to_rest(runner, 4 + 1)
    assert {letter.event_id for letter in DeadLetters(embedded.pipelines()).list()} == {1, 2, 3}
    assert timed(embedded) == {"a t": "0"}


def test_what_waits_takes_no_memory(embedded: EmbeddedEvents) -> None:
    made = pipeline(set_by_event, remember([]), event_time=EventTime(time_of), commit_limit=2)
    fill(embedded, [Read(f"k{n}", n, 1_000) for n in range(10)])
    with running(embedded, made) as runner:
        to_rest(runner, 10)
        timers = runner._effects.timers
        assert len(timers._written) == len(timers._accepted) == 2, "those of the last commit"
    (number,) = embedded.pipelines().database.execute("SELECT count(*) FROM timers").fetchone()
    assert number == 10


def test_a_batch_handler_sets_timers_too(embedded: EmbeddedEvents) -> None:
    def take_all(pairs: list[tuple[Read, Context]]) -> None:
        for event, context in pairs:
            set_by_event(event, context)

    made = Pipeline(
        "timed", ONE, take_all, batch=True, timer=remember([]), event_time=EventTime(time_of)
    )
    fill(embedded, [Read("a", 1, 1), Read("b", 5, 1)])
    with running(embedded, made) as runner:
        to_rest(runner, 2 + 1)
    assert timed(embedded) == {"a soon": "2"}


def test_an_event_without_a_time_is_its_own_failure(events: Events) -> None:
    def time(event: Read) -> int:
        strange = {"float": 1.5, "huge": 1 << 62}
        return strange.get(event.meter, event.at * SECOND // event.amount)  # type: ignore[return-value]

    reads = [Read("a", 1), Read("b", 5, 0), Read("float", 6), Read("huge", 7), Read("c", 9)]
    fill(events, reads)
    with running(
        events, pipeline(set_by_event, remember([]), event_time=EventTime(time))
    ) as runner:
        to_rest(runner, 5 + 1)
    letters = sorted(DeadLetters(events.pipelines()).list(), key=lambda letter: letter.event_id)
    errors = {letter.event_id: letter.error.split(":")[0] for letter in letters}
    assert errors == {2: "ZeroDivisionError", 3: "TypeError", 4: "ValueError"}


def test_a_silent_partition_does_not_hold_timers_back_for_ever(events: Events) -> None:
    reads = Topic("reads", Read, partitions=3)
    clock = Clock()
    log = events.log()
    log.declare([reads])
    append(log, messages([Read("a", 10, 0)]))
    made = Pipeline(
        "timed",
        reads,
        set_by_event,
        timer=remember([]),
        event_time=EventTime(time_of, idle_seconds=3),
    )
    with running(events, made, clock) as runner:
        to_rest(runner, 1)

        def fired() -> bool:
            clock.seconds += 1
            return bool(timed(events))

        until(runner, fired)
    assert timed(events) == {"a soon": "10"}


def test_a_commit_that_failed_leaves_the_watermark_as_it_was(events: Events) -> None:
    seen: list[int] = []
    failures = [StoreUnavailable("a full disk")]

    def take(event: Read, context: Context) -> None:
        seen.append(context.watermark_us)
        set_by_event(event, context)

    def reached(point: str) -> None:
        if point == "pipeline.before-commit" and failures:
            raise failures.pop()

    fill(events, [Read("a", 10, 5), Read("b", 100, 5)])
    made = pipeline(take, remember([]), event_time=EventTime(time_of), commit_limit=2)
    with running(events, made) as runner, faults.observed(reached):
        with pytest.raises(StoreUnavailable):
            until(runner, lambda: False)
        to_rest(runner, 2 + 1)
    assert set(seen) == {NEVER}
    assert timed(events) == {"a soon": "15"}


def test_a_twin_that_hears_nothing_does_not_take_that_for_silence(embedded: EmbeddedEvents) -> None:
    reads, clock = Topic("reads", Read, partitions=2), Clock()
    log = embedded.log()
    log.declare([reads])
    assert {reads.partition_of(key) for key in ("a", "d")} == {0, 1}
    made = Pipeline(
        "timed",
        reads,
        set_by_event,
        timer=remember([]),
        event_time=EventTime(time_of, idle_seconds=60),
    )
    with running(embedded, made, clock) as hears, running(embedded, made, clock) as deaf:
        assert deaf.step() == hears.step() == 0
        for number, runner in enumerate([deaf, hears, hears, hears]):
            clock.seconds += 50
            append(log, messages([Read("a", 10, 0), Read("d", 5, 100)], first=1 + 2 * number))
            to_rest(runner, 2)
            other = hears if runner is deaf else deaf
            other._reader.rewind()
            assert other.step() == 0
        assert timed(embedded) == {}
