"""Joins of two topics on both engines: each pair once, each event that was alone once."""

import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
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
    Joined,
    KafkaEvents,
    Pipeline,
    PipelineRunner,
    ReadModel,
    Share,
    StoreUnavailable,
    Topic,
    handle,
    late_events,
)
from counterfoil.events.consistency import token_of
from counterfoil.events.event_time import NEVER, Watermark
from counterfoil.events.joins import Kind
from counterfoil.events.joins.waiting import Entry, Waiting
from counterfoil.testing import Rehearsal

from .join_pairs import (
    DISORDER,
    ENDS,
    EVENT_TIME,
    ORDERS,
    PAIRS,
    PAYMENTS,
    WITHIN,
    Event,
    Order,
    Payment,
    expected,
    joined,
    messages,
    name_of,
    note,
    tell,
    time_of,
    told,
)
from .test_exactly_once import append
from .window_sums import PATIENCE_SECONDS, SECOND, Clock, Died, running, to_rest

PAGE = Path(__file__).parents[2] / "docs" / "windows.md"
LATE_ORDERS = Topic("late-orders", Order, partitions=1)
LATE_PAYMENTS = Topic("late-payments", Payment, partitions=1)


def fill(events: Events, found: list[Event], first: int = 1) -> None:
    log = events.log()
    log.declare([ORDERS, PAYMENTS, LATE_ORDERS, LATE_PAYMENTS])
    append(log, messages(found, first))


def pairs(events: Events) -> dict[str, str]:
    return told(events.pipelines(), PAIRS)


def left_over(events: Events) -> tuple[int, int]:
    """Keys with waiting events, and timers, that are stored."""
    database = events.pipelines().database
    (state,) = database.execute(
        "SELECT count(*) FROM state WHERE pipeline = ? AND key LIKE '_join %'", (PAIRS,)
    ).fetchone()
    (timers,) = database.execute("SELECT count(*) FROM timers").fetchone()
    return state, timers


def expired(number: int) -> int:
    """Events and timers of a step in which `ENDS` come, and so many events are over."""
    return len(ENDS) + number


def test_events_of_a_key_that_are_near_each_other_are_paired_whichever_comes_first(
    events: Events,
) -> None:
    found: list[Event] = [
        Order(1, "a", 100),
        Payment(2, "a", 160),
        Payment(3, "b", 41),
        Order(4, "b", 101),
        Payment(5, "a", 161),
        Order(6, "c", 100),
    ]
    with running(events, joined()) as runner:
        fill(events, found)
        to_rest(runner, 6)
        assert pairs(events) == {"1 2": "once", "4 3": "once"}
        assert left_over(events) == (3, 6), "the watermark stands until every partition has spoken"
        fill(events, ENDS, first=100)
        to_rest(runner, expired(6))
    assert pairs(events) == {"1 2": "once", "4 3": "once"}
    assert left_over(events) == (7, 14), "what comes last"


@pytest.mark.parametrize("kind", ["inner", "left", "outer"])
def test_an_event_without_a_partner_comes_alone_once_when_none_can_come_any_more(
    events: Events, kind: Kind
) -> None:
    found: list[Event] = [Order(1, "a", 100), Payment(2, "b", 100), Order(3, "a", 300)]
    with running(events, joined(kind)) as runner:
        fill(events, found)
        to_rest(runner, 3)
        until_over = 100 + WITHIN + DISORDER
        fill(events, [type(end)(0, end.account, until_over) for end in ENDS], first=50)
        to_rest(runner, len(ENDS))
        assert pairs(events) == {}, "a partner may come that happened at that very moment"
        fill(events, [type(end)(0, end.account, until_over + 1) for end in ENDS], first=100)
        to_rest(runner, expired(2))
        alone = {"inner": {}, "left": {"1 -": "once"}}.get(kind, {"1 -": "once", "- 2": "once"})
        assert pairs(events) == alone


def test_each_event_is_paired_with_every_partner(events: Events) -> None:
    orders: list[Event] = [Order(number, "a", 100 + number) for number in (1, 2, 3)]
    payments: list[Event] = [Payment(number, "a", 100 + number) for number in (4, 5)]
    with running(events, joined("outer")) as runner:
        fill(events, [*orders, *payments, Payment(4, "a", 104)])
        to_rest(runner, 6)
    twice = {f"{order} 4": "once,once" for order in (1, 2, 3)}
    assert pairs(events) == {**twice, **{f"{order} 5": "once" for order in (1, 2, 3)}}, (
        "an event that was sent again is another event"
    )


def test_late_events_are_counted_and_go_to_their_topics(events: Events) -> None:
    pipeline = joined("left", lateness_seconds=30, late_left=LATE_ORDERS, late_right=LATE_PAYMENTS)
    with running(events, pipeline) as runner:
        fill(events, [Order(1, "a", 100)])
        at = 100 + WITHIN + DISORDER + 30
        fill(events, [type(end)(0, end.account, at) for end in ENDS], first=50)
        to_rest(runner, 1 + len(ENDS))
        fill(events, [Payment(2, "a", 100)], first=100)
        to_rest(runner, 1)
        assert pairs(events)["1 2"] == "once", "its lateness was waited for"
        fill(events, [Payment(3, "a", 99), Order(4, "a", 99)], first=101)
        to_rest(runner, 2)
        fill(events, ENDS, first=200)
        to_rest(runner, expired(2 + len(ENDS)))
    assert pairs(events) == {"1 2": "once"}
    assert late_events(events.pipelines(), PAIRS) == 2
    if isinstance(events, EmbeddedEvents):
        for topic, number in ((LATE_ORDERS, 4), (LATE_PAYMENTS, 3)):
            (record,) = events.log().read(topic.name, 0, 0, 10)
            assert topic.decode(record.value).id == number
    else:
        sent = events.outbox("_pipelines").read_after(0, 100)
        assert {each.topic for _, each in sent} == {LATE_PAYMENTS.name, LATE_ORDERS.name}
        assert len(sent) == 2


def test_what_belongs_together_may_be_told_by_the_events(events: Events) -> None:
    with running(events, joined(key=lambda each: str(each.id // 10))) as runner:
        fill(events, [Order(11, "a", 1), Payment(12, "b", 2), Payment(21, "a", 3)])
        to_rest(runner, 3)
    assert pairs(events) == {"11 12": "once"}


@pytest.mark.parametrize("by_handler", [False, True])
def test_an_event_whose_pair_fails_is_a_dead_letter_that_still_knows_its_topic(
    embedded: EmbeddedEvents, *, by_handler: bool
) -> None:
    refused = {2}

    def refuse(order: Order | None, payment: Payment | None, context: Context) -> None:
        tell(order, payment, context)
        if payment is not None and payment.id in refused:
            raise RuntimeError("no such account")

    pipeline = joined("left", handler=refuse)
    letters = DeadLetters(embedded.pipelines())
    with running(embedded, pipeline) as runner:
        fill(embedded, [Order(1, "a", 100), Payment(2, "a", 100), Payment(3, "a", 100)])
        to_rest(runner, 3)
        assert pairs(embedded) == {"1 3": "once"}
        (letter,) = letters.list()
        assert (letter.topic, letter.stream) == ("payments", "payments")
        letters.replay(letter.id, 1)
        to_rest(runner, 1)
        again = letters.list()[0]
        assert (again.topic, again.stream) == (f"{PAIRS}.retries", "payments")
        letters.edit(again.id, b'{"id":4,"account":"a","at":101}', PAYMENTS, 1)
        if by_handler:
            handle(letters, again.id, pipeline, 1)
        else:
            letters.replay(again.id, 1)
            to_rest(runner, 1)
        assert pairs(embedded) == {"1 3": "once", "1 4": "once"}
        fill(embedded, ENDS, first=100)
        to_rest(runner, expired(3))
    assert pairs(embedded) == {"1 3": "once", "1 4": "once"}


def test_an_event_that_could_not_be_told_alone_is_paired_no_more(embedded: EmbeddedEvents) -> None:
    refused = {1}

    def refuse(order: Order | None, payment: Payment | None, context: Context) -> None:
        tell(order, payment, context)
        if order is not None and order.id in refused:
            raise RuntimeError("not now")

    letters = DeadLetters(embedded.pipelines())
    with running(embedded, joined("left", handler=refuse)) as runner:
        fill(embedded, [Order(1, "a", 100)])
        over = [type(end)(0, end.account, 181) for end in ENDS]
        fill(embedded, over, first=50)
        to_rest(runner, 1 + len(ENDS) + 1)
        (letter,) = letters.list()
        assert letter.topic == f"{PAIRS}.timers"
        fill(embedded, [Payment(2, "a", 160)], first=100)  # near enough, and late for this one
        to_rest(runner, 1)
        refused.clear()
        letters.replay(letter.id, 1)
        to_rest(runner, 1)
    assert pairs(embedded) == {"1 -": "once"}


def test_what_waits_of_one_key_is_bounded(
    embedded: EmbeddedEvents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("counterfoil.events.joins.waiting.EVENTS", 2)
    with running(embedded, joined()) as runner:
        fill(embedded, [Order(1, "a", 1), Order(2, "a", 2), Payment(3, "a", 3), Order(4, "b", 4)])
        to_rest(runner, 4)
        (letter,) = DeadLetters(embedded.pipelines()).list()
        assert "3 events of one key" in letter.error
        assert pairs(embedded) == {}
    monkeypatch.setattr("counterfoil.events.joins.waiting.BYTES", 10)
    with pytest.raises(EventsError, match="join by a finer key"):
        Waiting([], within_us=1, lateness_us=0).meet(
            Entry(right=False, place="a/0/0", time_us=1, value=b"12345678901"), lambda _: False
        )


def test_what_can_not_be_joined_is_refused() -> None:
    with pytest.raises(EventsError, match="can't join orders with itself"):
        joined(right=ORDERS)
    with pytest.raises(EventsError, match="no join of the kind 'right'"):
        joined("right")  # type: ignore[arg-type]
    with pytest.raises(EventsError, match="within_seconds must not be negative"):
        joined(within_seconds=-1)
    with pytest.raises(EventsError, match="lateness_seconds must not be negative"):
        joined(lateness_seconds=-1)


def test_topics_whose_keys_would_come_to_different_processes_are_refused_in_several(
    embedded: EmbeddedEvents,
) -> None:
    uneven = Topic("payments", Payment, partitions=3)
    pipeline = joined(right=uneven)
    pipeline.check_processes(1)
    with pytest.raises(EventsError, match="orders with 2 partitions and payments with 3"):
        pipeline.check_processes(2)
    with pytest.raises(EventsError, match="different processes") as refused:
        start(embedded, pipeline, 2, Clock())
    assert refused.value.hint is not None
    assert "one number of partitions" in refused.value.hint


def test_topics_of_different_numbers_of_partitions_are_joined_in_one_process(
    embedded: EmbeddedEvents,
) -> None:
    wide = Topic("payments", Payment, partitions=5)
    log = embedded.log()
    log.declare([ORDERS, wide])
    found: list[Event] = [Order(1, "a", 100), Payment(2, "a", 100), Order(3, "b", 100)]
    ends: list[Event] = [Payment(0, str(number), 100_000) for number in range(40)]
    assert {wide.partition_of(end.account) for end in ends} == set(range(5))
    append(log, messages([*found, *ENDS, *ends]))
    with running(embedded, joined("left", right=wide)) as runner:
        to_rest(runner, 3 + len(ENDS) + len(ends) + 3)
    assert pairs(embedded) == {"1 2": "once", "3 -": "once"}


def start(events: Events, pipeline: Pipeline[Any], of: int, clock: Clock) -> list[PipelineRunner]:
    return [
        PipelineRunner(events.log(), events.pipelines(), pipeline, clock.now_us, Share(number, of))
        for number in range(of)
    ]


class Seen(Counter[str]):
    """Pairs as a join in memory tells them."""

    def tell(self, order: Entry | None, payment: Entry | None) -> None:
        places = ["-" if each is None else each.place for each in (order, payment)]
        self[" ".join(places)] += 1


@settings(max_examples=300, deadline=None)
@given(
    arrivals=st.lists(
        st.tuples(st.booleans(), st.integers(0, 60), st.integers(0, 15)), max_size=30
    ),
    within=st.integers(0, 12),
    lateness=st.integers(0, 8),
    fires=st.randoms(use_true_random=False),
)
def test_whatever_comes_when_what_is_not_late_is_paired_as_long_as_it_waits(
    arrivals: list[tuple[bool, int, int]], within: int, lateness: int, fires: random.Random
) -> None:
    """Each arrival has a side, a time, and by how much the watermark has moved before it."""
    waiting = Waiting([], within_us=within, lateness_us=lateness)
    seen, watermark = Seen(), 0

    def is_over(at_us: int) -> bool:
        return at_us <= watermark

    model: list[tuple[str, bool, int, int]] = []
    """Name, side, time, and the watermark at its coming, of those that are not late."""

    def expire(chance: float) -> None:
        """Fire timers that are due, or not yet: they are fired by a commit of their own."""
        for entry in list(waiting.entries):
            if is_over(waiting.closes_us(entry)) and fires.random() < chance:
                assert waiting.take(entry.place) is entry
                if not entry.met:
                    seen.tell(*((None, entry) if entry.right else (entry, None)))

    for number, (right, time_us, moved) in enumerate(arrivals):
        watermark += moved
        expire(0.5)
        entry = Entry(right, f"e{number}", time_us, b"")
        if is_over(waiting.closes_us(entry)):
            continue
        model.append((entry.place, right, time_us, watermark))
        for other in waiting.meet(entry, is_over):
            seen.tell(*((other, entry) if right else (entry, other)))
    watermark = 1_000
    expire(1)
    assert waiting.entries == []

    found, met = Counter[str](), set[str]()
    for second, (place, right, time_us, at_us) in enumerate(model):
        for other, side, other_us, _ in model[:second]:
            still_open = other_us + within + lateness >= at_us
            if side != right and abs(other_us - time_us) <= within and still_open:
                found[f"{other} {place}" if right else f"{place} {other}"] += 1
                met |= {place, other}
    for place, right, _, _ in model:
        if place not in met:
            found[f"- {place}" if right else f"{place} -"] += 1
    assert seen == found


@settings(max_examples=30, deadline=None)
@given(
    found=st.lists(
        st.tuples(st.sampled_from([Order, Payment]), st.sampled_from("abc"), st.integers(0, 400)),
        min_size=1,
        max_size=40,
    ),
    kind=st.sampled_from(["inner", "left", "outer"]),
    processes=st.sampled_from([1, 1, 2]),
    one_key=st.booleans(),
    seed=st.integers(0, 2**32),
    fired=st.integers(1, 4),
)
def test_any_order_within_the_disorder_any_batches_processes_and_crashes_lead_to_the_whole_join(
    found: list[tuple[type[Event], str, int]],
    kind: Kind,
    processes: int,
    seed: int,
    fired: int,
    *,
    one_key: bool,
) -> None:
    chance = random.Random(seed)
    events: list[Event] = [
        make(number, account, at) for number, (make, account, at) in enumerate(found, 1)
    ]
    order = sorted(events, key=lambda each: each.at + chance.uniform(0, DISORDER))
    expect = expected([type(e)(e.id, "all", e.at) for e in events] if one_key else events, kind)
    key = (lambda _: "all") if one_key else None
    pipeline = joined(kind, commit_limit=chance.randint(1, 5), key=key)
    clock, whole = Clock(), [*order, *ENDS]

    def reached(point: str) -> None:
        if point.startswith("pipeline.") and chance.random() < 0.1:
            raise Died

    with (
        TemporaryDirectory() as folder,
        pytest.MonkeyPatch.context() as patch,
        faults.observed(reached),
    ):
        patch.setattr("counterfoil.events.timing.FIRED", fired)
        made = EmbeddedEvents(Path(folder))
        runners: list[PipelineRunner] = []
        while whole:
            portion, whole = whole[: (number := chance.randint(1, 12))], whole[number:]
            fill(made, portion, first=10_000 - len(whole))
            quiet = 0
            while quiet < 3:
                clock.seconds += 2  # for what others have told meanwhile to be heard
                if not runners:
                    runners = start(made, pipeline, processes, clock)
                try:
                    moved = sum(runner.step() for runner in runners)
                    quiet = 0 if moved else quiet + 1
                except Died:
                    runners = []  # whoever takes over knows what is stored
        assert pairs(made) == expect
        assert late_events(made.pipelines(), PAIRS) == 0
        assert left_over(made) == (1 if one_key else 7, len(ENDS)), "only what comes last waits"


def where_of(events: Events) -> list[str]:
    """What another process needs to know to find the same events."""
    if isinstance(events, EmbeddedEvents):
        return [str(events._folder)]
    assert isinstance(events, KafkaEvents)
    return [events._kafka.servers, events._postgres, events._application]


def test_no_pair_is_lost_or_told_twice_though_the_process_is_killed_around_its_commits(
    events: Events, tmp_path: Path
) -> None:
    chance = random.Random(7)
    found: list[Event] = [
        (Order, Payment)[n % 2](n + 1, f"m{chance.randint(0, 20)}", n // 2 + chance.randint(0, 18))
        for n in range(200)
    ]
    fill(events, [*found, *ENDS])
    expect = expected(found, "outer")
    assert any("-" in pair for pair in expect), "some are alone"
    command = [sys.executable, "-m", "events.join_pairs", str(len(expect)), *where_of(events)]
    environment = {**os.environ, "COUNTERFOIL_FAULTS": str(tmp_path)}
    if isinstance(events, KafkaEvents):
        environment["PGPASSWORD"] = events._password or ""
    tests = Path(__file__).parents[1]
    for moment in ("before", "after"):
        (tmp_path / f"pipeline.{moment}-commit").write_text("kill")
        died = subprocess.run(command, env=environment, timeout=60, check=False, cwd=tests)
        assert died.returncode == -signal.SIGKILL
    subprocess.run(command, env=environment, timeout=60, check=True, cwd=tests)
    assert pairs(events) == expect


def test_processes_at_the_same_time_that_die_tell_each_pair_of_their_partitions_once(
    events: Events,
) -> None:
    """Events of a key come to both, which is what costs most, and goes wrong first."""
    chance = random.Random(3)
    found: list[Event] = [
        (Order, Payment)[n % 2](n + 1, chance.choice("abcdefg"), 3 * n + chance.randint(0, 20))
        for n in range(200)
    ]
    groups = {each: "even" if ord(each) % 2 else "odd" for each in "abcdefg"}
    expect = expected(
        [type(each)(each.id, groups[each.account], each.at) for each in found], "outer"
    )
    pipeline = joined("outer", commit_limit=20, key=lambda each: groups[each.account])
    fill(events, [*found, *ENDS])
    stop, deaths = threading.Event(), list[str]()

    def reached(point: str) -> None:
        if point.startswith("pipeline.") and len(deaths) < 6 and chance.random() < 0.3:
            deaths.append(point)
            raise Died

    def live(share: Share) -> None:
        now_us = lambda: time.time_ns() // 1_000  # noqa: E731
        log, store = events.log(), events.pipelines()
        with closing(PipelineRunner(log, store, pipeline, now_us, share)) as runner:
            while not stop.is_set():
                with suppress(StoreUnavailable):  # the embedded store has one writer
                    runner.step()

    def work(number: int) -> None:
        while not stop.is_set():
            with suppress(Died):
                live(Share(number, 2))

    with ThreadPoolExecutor(2) as pool, faults.observed(reached):
        working = [pool.submit(work, number) for number in range(2)]
        deadline = time.monotonic() + PATIENCE_SECONDS
        try:
            while len(pairs(events)) < len(expect) and not any(each.done() for each in working):
                time.sleep(0.05)
                assert time.monotonic() < deadline
        finally:
            stop.set()
        for each in working:
            each.result(PATIENCE_SECONDS)
    assert pairs(events) == expect
    assert deaths
    assert late_events(events.pipelines(), PAIRS) == 0


def test_a_process_hears_its_partitions_of_both_topics() -> None:
    first, second = (Watermark(EVENT_TIME, 6, Share(number, 2), 3) for number in range(2))
    for watermark in (first, second):
        for partition in range(5):
            watermark.observe(partition, 100 * SECOND, 0)
        watermark.look({0, 2, 3, 4}, 0, exhaustive=True)
        assert watermark.current_us() == NEVER, "nothing is known of the second topic's last one"
    idle = EventTime(time_of, idle_seconds=1)
    share = Watermark(idle, 6, Share(1, 2), 3)
    share.look((), 0, exhaustive=True)
    share.look((), SECOND, exhaustive=True)
    assert share.idle == {1, 4}


def test_a_read_model_waits_for_events_of_both_topics(embedded: EmbeddedEvents) -> None:
    pipeline = joined()
    order, payment = messages([Order(1, "a", 1), Payment(2, "a", 1)])
    with running(embedded, pipeline) as runner:
        fill(embedded, [Order(1, "a", 1), Payment(2, "a", 1)])
        model = ReadModel(embedded.log(), embedded.pipelines(), pipeline)
        assert model.lag() == 2
        to_rest(runner, 2)
        assert model.lag() == 0
        assert model.await_caught_up(token_of([order, payment]), 5).events == 2


def test_what_is_declared_on_an_application_is_checked_there() -> None:
    app = Application("shop")
    orders, payments = app.topic("orders", Order), app.topic("payments", Payment)

    @app.join("paid", orders, payments, within_seconds=60, event_time=EventTime(time_of))
    def pair(order: Order, payment: Payment, context: Context) -> None:
        context.state.put("x", name_of(order).encode())

    with pytest.raises(ConfigurationError, match="declared twice"):
        app.join("paid", orders, payments, within_seconds=60, event_time=EVENT_TIME)(pair)
    with pytest.raises(ConfigurationError, match="declared twice"):
        app.timer("paid")(lambda timer, context: note(context, timer.key, "fired"))
    assert Joined("paid", orders, payments, pair, within_seconds=1, event_time=EVENT_TIME)
    names = [topic.name for topic in app.all_topics()]
    assert len(names) == len(set(names)) == 4


def test_the_example_of_the_page_is_rehearsed() -> None:
    _, example = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(example, str(PAGE), "exec"), names)  # the page's own code
    order, payment, orders, payments = (
        names[each] for each in ("Order", "Payment", "orders", "payments")
    )
    start_us = 1_767_225_600 * SECOND  # when a rehearsal begins
    with Rehearsal(names["app"]) as rehearsal:
        rehearsal.send(orders, order("o1", 100, start_us), key="o1")
        rehearsal.send(orders, order("o2", 200, start_us), key="o2")
        rehearsal.send(payments, payment("o1", 100, start_us + 60 * SECOND), key="o1")
        rehearsal.crash("pipeline.before-commit")
        rehearsal.run()
        assert [each.order for each in rehearsal.events(names["settled"])] == ["o1"]
        assert rehearsal.events(names["unpaid"]) == []
        hour = start_us + 3_600 * SECOND
        rehearsal.send(orders, order("o3", 300, hour), key="o3")
        rehearsal.run()
        rehearsal.advance(timedelta(seconds=60))  # partitions without events are left out
        rehearsal.crash("pipeline.before-commit")
        rehearsal.run()
        rehearsal.advance(timedelta(seconds=60))
        rehearsal.run()
        assert [each.id for each in rehearsal.events(names["unpaid"])] == ["o2"]
        rehearsal.send(payments, payment("o2", 200, start_us + 60 * SECOND), key="o2")
        rehearsal.run()
        assert rehearsal.late_events("paid") == 1
        assert len(rehearsal.events(names["settled"])) == 1
