"""Windows on both engines: each event once in the right ones, each window told once."""

import os
import random
import re
import signal
import subprocess
import sys
from collections import Counter
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from counterfoil import Application, faults
from counterfoil.application.configuration import ConfigurationError
from counterfoil.events import (
    Context,
    DeadLetters,
    EmbeddedEvents,
    Events,
    EventsError,
    EventTime,
    Hopping,
    PipelineRunner,
    Record,
    Session,
    Timer,
    Topic,
    Tumbling,
    Window,
    Windowed,
    late_events,
)
from counterfoil.events.windows import Shape
from counterfoil.testing import Rehearsal
from events import window_sums
from events.test_exactly_once import append, records
from events.window_sums import (
    READS,
    SECOND,
    SUMS,
    Clock,
    Died,
    Read,
    Sum,
    add,
    expected_sums,
    messages,
    running,
    tell,
    time_of,
    to_rest,
    told,
    until,
)

PAGE = Path(__file__).parents[2] / "docs" / "windows.md"
LATE = Topic("late", Read, partitions=1)
ONE = Topic("reads", Read, partitions=1)


def windowed(shape: Shape, *, source: Topic[Read] = ONE, **more: Any) -> Windowed[Read, Sum]:
    event_time = more.pop("event_time", EventTime(time_of, disorder_seconds=10))
    made = Windowed(SUMS, source, shape, Sum, add, event_time=event_time, **more)
    made.then(tell)
    made.merge(lambda left, right: Sum(left.amount + right.amount))
    return made


def fill(events: Events, reads: list[Read], *, source: Topic[Read] = ONE, first: int = 1) -> None:
    log = events.log()
    log.declare([source, LATE])
    append(log, messages(reads, first))


def left_over(events: Events) -> tuple[int, int]:
    """Open windows' entries and timers that are stored."""
    database = events.pipelines().database
    (state,) = database.execute(
        "SELECT count(*) FROM state WHERE pipeline = ? AND key LIKE '_windows %'", (SUMS,)
    ).fetchone()
    (timers,) = database.execute("SELECT count(*) FROM timers").fetchone()
    return state, timers


def late(events: Events, number: int) -> list[Read]:
    """What was sent to the topic of late events."""
    if isinstance(events, EmbeddedEvents):
        found: list[Record] = records(events, LATE, number)  # type: ignore[arg-type]
        return [LATE.decode(each.value) for each in found]
    sent = events.outbox("_pipelines").read_after(0, 100)
    return [LATE.decode(each.value) for _, each in sent if each.topic == LATE.name]


def test_a_window_is_told_once_when_it_closes_and_leaves_nothing_behind(events: Events) -> None:
    fill(events, [Read("a", 5, 1), Read("b", 61, 7), Read("a", 59, 2), Read("a", 60, 4)])
    with running(events, windowed(Tumbling(60)).pipeline()) as runner:
        to_rest(runner, 4)
        assert told(events.pipelines()) == {}, "the watermark is at 51 s"
        fill(events, [Read("a", 70, 8)], first=5)
        to_rest(runner, 2)
        assert told(events.pipelines()) == {"a 0": "3"}
        assert left_over(events) == (2, 2)
        fill(events, [Read("a", 500, 1), Read("a", 900, 1)], first=6)
        to_rest(runner, 2 + 3)
    assert told(events.pipelines()) == {"a 0": "3", "a 60": "12", "b 60": "7", "a 480": "1"}
    assert left_over(events) == (1, 1), "what began at 900 s is open"


@pytest.mark.parametrize(
    ("after", "told_then"),
    [
        (windowed(Tumbling(60), lateness_seconds=40), {"a 0": "7", "a 60": "8"}),
        (windowed(Tumbling(120)), {"a 0": "15"}),
        (windowed(Tumbling(30)), {"a 0": "3", "a 30": "4", "a 60": "8"}),
        (windowed(Session(300)), {"a 0": "15"}),
    ],
    ids=["open for longer", "longer", "shorter", "sessions"],
)
def test_open_windows_are_told_though_they_were_declared_otherwise_when_they_began(
    events: Events, after: Windowed[Read, Sum], told_then: dict[str, str]
) -> None:
    fill(events, [Read("a", 10, 1), Read("a", 50, 2)])
    with running(events, windowed(Tumbling(60)).pipeline()) as runner:
        to_rest(runner, 2)
    fill(events, [Read("a", 55, 4), Read("a", 70, 8), Read("a", 9_000, 0)], first=3)
    with running(events, after.pipeline()) as runner:
        until(runner, lambda: told(events.pipelines()) == told_then)
    assert left_over(events) == (1, 1), "the last one is open"


def test_hopping_windows_each_hold_an_event(events: Events) -> None:
    fill(events, [Read("a", 70, 1), Read("a", 100, 2), Read("a", 500)])
    with running(events, windowed(Hopping(60, 20)).pipeline()) as runner:
        until(runner, lambda: len(told(events.pipelines())) == 5)
    assert told(events.pipelines()) == {"a 20": "1", "a 40": "1", "a 60": "3", "a 80": "2"} | {
        "a 100": "2"
    }


def test_an_event_between_two_sessions_makes_them_one(events: Events) -> None:
    event_time = EventTime(time_of, disorder_seconds=100)
    fill(events, [Read("a", 100, 1), Read("a", 150, 2), Read("b", 125, 8), Read("a", 125, 4)])
    with running(events, windowed(Session(30), event_time=event_time).pipeline()) as runner:
        to_rest(runner, 4)
        assert left_over(events) == (2, 2), "a session each, and a timer each"
        fill(events, [Read("a", 180), Read("a", 300)], first=5)
        to_rest(runner, 2 + 2)
    assert told(events.pipelines()) == {"a 100": "7", "b 125": "8"}, "a gap exactly parts them"
    assert left_over(events) == (1, 2)


def test_late_events_go_to_their_topic_and_are_counted(events: Events) -> None:
    pipeline = windowed(Tumbling(60), lateness_seconds=30, late=LATE).pipeline()
    with running(events, pipeline) as runner:
        fill(events, [Read("a", 10, 1), Read("a", 99)])
        to_rest(runner, 2)
        fill(events, [Read("a", 20, 2), Read("a", 100)], first=3)  # late, and waited for
        to_rest(runner, 2 + 1)
        assert told(events.pipelines()) == {"a 0": "3"}
        fill(events, [Read("a", 30, 4), Read("a", 101)], first=5)
        to_rest(runner, 2)
    assert told(events.pipelines()) == {"a 0": "3"}
    assert late(events, 1) == [Read("a", 30, 4)]
    assert late_events(events.pipelines(), SUMS) == 1


def test_each_update_is_told_if_it_is_wanted(embedded: EmbeddedEvents) -> None:
    fill(embedded, [Read("a", 1, 1), Read("a", 2, 2), Read("a", 70)])
    with running(embedded, windowed(Tumbling(60), emit="update").pipeline()) as runner:
        to_rest(runner, 3 + 1)
    assert told(embedded.pipelines()) == {"a 0": "1,3,3", "a 60": "1"}


def test_windows_are_those_of_a_key_that_events_name(embedded: EmbeddedEvents) -> None:
    fill(embedded, [Read("a", 1, 1), Read("b", 2, 2), Read("c", 70)])
    pipeline = windowed(Tumbling(60), key=lambda event: "all").pipeline()
    with running(embedded, pipeline) as runner:
        to_rest(runner, 3 + 1)
    assert told(embedded.pipelines()) == {"all 0": "3"}


def test_a_window_that_can_not_be_told_is_a_dead_letter_and_closes_when_it_is_replayed(
    events: Events,
) -> None:
    refused = {"a"}
    made = Windowed(SUMS, ONE, Tumbling(60), Sum, add, event_time=EventTime(time_of))

    @made.then
    def once(window: Window[Sum], context: Context) -> None:
        tell(window, context)
        if window.key in refused:
            raise RuntimeError("no such account")

    fill(events, [Read("a", 1, 1), Read("b", 2, 2), Read("a", 60, 4)])
    letters = DeadLetters(events.pipelines())
    with running(events, made.pipeline()) as runner:
        to_rest(runner, 3 + 2)
        assert told(events.pipelines()) == {"b 0": "2"}
        (letter,) = letters.list()
        assert (letter.topic, letter.key, letter.tries) == ("sums.timers", "a", 3)
        assert letter.error == "RuntimeError: no such account"
        refused.clear()
        if isinstance(events, EmbeddedEvents):
            letters.replay(letter.id, 1)
            to_rest(runner, 1)
            assert told(events.pipelines()) == {"b 0": "2", "a 0": "1"}
    assert left_over(events)[1] == 1, "the window that is open"


def test_what_is_declared_wrong_is_refused(embedded: EmbeddedEvents) -> None:
    with pytest.raises(EventsError, match="gaps"):
        Hopping(10, 20)
    with pytest.raises(EventsError, match="more than 100 windows"):
        Hopping(1_000, 1)
    with pytest.raises(EventsError, match="a microsecond at least"):
        Tumbling(0)
    with pytest.raises(EventsError, match="defaults"):
        Windowed(SUMS, ONE, Tumbling(1), Read, lambda total, event: total, event_time=EventTime(id))  # type: ignore[arg-type]
    made = Windowed(SUMS, ONE, Session(1), Sum, add, event_time=EventTime(time_of))
    for missing in ("lead to nothing", "two sessions"):
        with pytest.raises(EventsError, match=missing), running(embedded, made.pipeline()):
            pass
        if made.effects is None:
            made.then(tell)
    with pytest.raises(EventsError, match="two functions"):
        made.then(tell)


def test_open_windows_of_a_key_are_bounded(
    embedded: EmbeddedEvents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("counterfoil.events.windows.open_windows.OPEN", 2)
    event_time = EventTime(time_of, disorder_seconds=1_000)
    fill(embedded, [Read("a", 1), Read("a", 61), Read("a", 121), Read("b", 121)])
    with running(embedded, windowed(Tumbling(60), event_time=event_time).pipeline()) as runner:
        to_rest(runner, 4)
    (letter,) = DeadLetters(embedded.pipelines()).list()
    assert "more than 2 open windows" in letter.error


@settings(max_examples=300, deadline=None)
@given(time_us=st.integers(-(10**12), 10**12), seconds=st.integers(1, 50), hop=st.integers(1, 50))
def test_spans_are_all_those_that_hold_the_moment(time_us: int, seconds: int, hop: int) -> None:
    hop = min(seconds, hop)
    spans = Hopping(seconds, hop).spans(time_us)
    assert all(start <= time_us < end and start % (hop * SECOND) == 0 for start, end in spans)
    assert all(end - start == seconds * SECOND for start, end in spans)
    first, last = spans[0][0] - hop * SECOND, spans[-1][0] + hop * SECOND
    assert first + seconds * SECOND <= time_us, "the one before has ended"
    assert last > time_us, "the one after has not begun"
    assert [start for start, _ in spans] == list(range(spans[0][0], last, hop * SECOND))
    assert Tumbling(seconds).spans(time_us) == Hopping(seconds, seconds).spans(time_us)


def model(shape: Shape, reads: list[Read]) -> dict[str, str]:
    """The windows of the sorted whole, without state, timers or a watermark."""
    found: Counter[tuple[str, int]] = Counter()
    if not isinstance(shape, Session):
        for each in reads:
            for start_us, _ in shape.spans(each.at * SECOND):
                found[each.meter, start_us // SECOND] += each.amount
    else:
        last: dict[str, tuple[int, int]] = {}
        for each in sorted(reads, key=lambda read: read.at):
            start, newest = last.get(each.meter, (each.at, each.at))
            if each.at - newest >= shape.gap_seconds:
                start = each.at
            last[each.meter] = (start, each.at)
            found[each.meter, start] += each.amount
    return {f"{meter} {start}": str(amount) for (meter, start), amount in found.items()}


DISORDER = 20


@settings(max_examples=60, deadline=None)
@given(
    reads=st.lists(
        st.builds(Read, st.sampled_from("abc"), st.integers(0, 300), st.integers(1, 9)),
        min_size=1,
        max_size=40,
    ),
    shape=st.sampled_from([Tumbling(30), Hopping(30, 10), Session(15)]),
    seed=st.integers(0, 2**32),
    fired=st.integers(1, 4),
)
def test_any_order_within_the_disorder_any_batches_and_crashes_lead_to_the_windows_of_the_whole(
    reads: list[Read], shape: Shape, seed: int, fired: int
) -> None:
    chance = random.Random(seed)
    # Late by less than the disorder, in each partition: a time that is drawn later at random.
    order = sorted(reads, key=lambda read: (read.at + chance.uniform(0, DISORDER), read.meter))
    event_time = EventTime(time_of, disorder_seconds=DISORDER)
    made = windowed(shape, source=READS, event_time=event_time, commit_limit=chance.randint(1, 5))
    clock, dying = Clock(), 0.2

    def reached(point: str) -> None:
        if point.startswith("pipeline.") and chance.random() < dying:
            raise Died

    # Whatever closes them all comes last, in each partition.
    ends = ["a", "b", "c", "d", "e", "f", "g"]
    assert {READS.partition_of(end) for end in ends} == {0, 1}
    whole = [*order, *(Read(end, 10_000) for end in ends)]
    with (
        TemporaryDirectory() as folder,
        pytest.MonkeyPatch.context() as patch,
        faults.observed(reached),
    ):
        patch.setattr("counterfoil.events.timing.FIRED", fired)
        events = EmbeddedEvents(Path(folder))
        store = events.pipelines()
        expected = model(shape, reads)
        runner = None
        while True:
            portion, whole = whole[: (number := chance.randint(1, 12))], whole[number:]
            fill(events, portion, source=READS, first=10_000 - len(whole))
            moved = 1
            while moved:
                try:
                    if runner is None:
                        runner = PipelineRunner(events.log(), store, made.pipeline(), clock.now_us)
                    moved = runner.step()
                except Died:
                    runner = None  # whoever takes over knows what is stored
            if not whole:
                break
        found = told(store)
        assert found == expected
        assert late_events(store, SUMS) == 0
        assert left_over(events)[0] == len(ends), "only what comes last is open"
        (number,) = store.database.execute("SELECT count(*) FROM state").fetchone()
        assert number == len(ends) + len(expected)


def test_no_window_is_lost_or_told_twice_though_the_process_dies_around_its_commits(
    embedded: EmbeddedEvents, tmp_path: Path
) -> None:
    chance = random.Random(7)
    reads = [Read(f"m{n % 5}", n // 2 + chance.randint(0, 25), n) for n in range(600)]
    reads += [Read(f"m{n}", 10_000) for n in range(5)]
    assert {READS.partition_of(f"m{n}") for n in range(5)} == {0, 1}
    expected = expected_sums(reads, 10_000 - 30)
    reminded = {f"{each.meter} {each.at + 60}": "reminded" for each in reads if each.at < 1_000}
    fill(embedded, reads, source=READS)
    folder = tmp_path / "faults"
    folder.mkdir()
    number = str(len(expected) + len(reminded))
    command = [sys.executable, window_sums.__file__, str(embedded._folder), number]
    environment = {**os.environ, "COUNTERFOIL_FAULTS": str(folder)}
    for life in range(2):
        (folder / f"pipeline.{('before', 'after')[life % 2]}-commit").write_text("kill")
        died = subprocess.run(command, env=environment, timeout=60, check=False)
        assert died.returncode == -signal.SIGKILL
    subprocess.run(command, env=environment, timeout=60, check=True)
    assert told(embedded.pipelines()) == expected
    assert told(embedded.pipelines(), "reminders") == reminded


def test_the_example_of_the_page_is_rehearsed() -> None:
    example, _ = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(example, str(PAGE), "exec"), names)  # the page's own code
    payment, customer, minute = names["Payment"], names["Customer"], names["Minute"]
    payments, customers = names["payments"], names["customers"]

    def pay(rehearsal: Rehearsal, number: int, who: str, amount: int, second: int) -> None:
        event = payment(number, who, amount, start + second * SECOND)
        rehearsal.send(payments, event, key=who)

    start = 1_767_225_600 * SECOND  # when a rehearsal begins, which is the beginning of a minute
    with Rehearsal(names["app"]) as rehearsal:
        rehearsal.send(customers, customer("NL"), key="ada")
        rehearsal.send(customers, customer("JP"), key="bob")
        for number, (who, amount, second) in enumerate(
            [("ada", 100, 1), ("bob", 1, 5), ("eve", 10, 2), ("ada", 200, 59), ("bob", 2, 61)]
        ):
            pay(rehearsal, number, who, amount, second)
        rehearsal.run()
        assert rehearsal.events(names["minutes"]) == [], "disorder is waited for"
        pay(rehearsal, 6, "ada", 5, 100)
        rehearsal.crash("pipeline.before-commit")
        rehearsal.run()
        rehearsal.advance(timedelta(seconds=60))  # partitions without events are left out
        rehearsal.crash("pipeline.before-commit")
        rehearsal.run()
        rehearsal.advance(timedelta(seconds=60))
        rehearsal.run()
        found = sorted(rehearsal.events(names["minutes"]), key=lambda each: each.country)
        assert found == [
            minute("?", start, 1, 10),
            minute("JP", start, 1, 1),
            minute("NL", start, 2, 300),
        ]
        pay(rehearsal, 7, "ada", 7, 3)
        rehearsal.run()
        assert rehearsal.events(names["too_late"]) == [minute("NL", start + 3 * SECOND, 1, 7)]
        assert rehearsal.late_events("takings") == 1
        assert rehearsal.events(names["welcomes"]) == []
        rehearsal.advance(timedelta(hours=1))
        rehearsal.run()
        rehearsal.run()
        assert len(rehearsal.events(names["welcomes"])) == 2


def test_what_is_declared_on_an_application_is_checked_there() -> None:
    app = Application("shop")
    reads = app.topic("reads", Read)

    @app.pipeline("timed", reads)
    def take(event: Read, context: Context) -> None:
        pass

    @app.timer("timed")
    def fired(timer: Timer, context: Context) -> None:
        pass

    with pytest.raises(ConfigurationError, match="declared twice"):
        app.timer("timed")(fired)
    with pytest.raises(ConfigurationError, match="no pipeline 'other'"):
        app.timer("other")(fired)
    with pytest.raises(ConfigurationError, match="declared twice"):
        app.window("timed", reads, Tumbling(1), Sum, event_time=EventTime(time_of))(add)
