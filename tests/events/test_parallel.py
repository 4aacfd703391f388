"""Much at once: order by key, effects once, memory bounded, a restart that redoes little."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from counterfoil.events import (
    Context,
    DeadLetters,
    EmbeddedEvents,
    Events,
    EventsError,
    Fenced,
    HeavyHitters,
    Message,
    Parallel,
    ParallelRunner,
    Record,
    Topic,
    rebuilt_balances,
    trial_balance,
)
from counterfoil.events.parallel.schedule import ALONE, Item, Schedule
from events import parallel_calls
from events.test_exactly_once import PATIENCE_SECONDS, append

PAGE = Path(__file__).parents[2] / "docs" / "parallel.md"


class Call(msgspec.Struct, frozen=True):
    id: int
    key: str


CALLS = Topic("calls", Call, partitions=1)


def call(number: int, keys: int = 8, value: bytes | None = None) -> Message:
    key = f"k{number % keys}"
    return Message(number, "calls", key, value or CALLS.encode(Call(number, key)), {}, 1)


def post(event: Call, result: int, context: Context) -> None:
    context.ledger.transfer(
        id=event.id, debit=event.key, credit="all", amount=result, currency="USD", code="c"
    )


@contextmanager
def running(events: Events, parallel: Parallel[Call, int]) -> Iterator[ParallelRunner]:
    runner = ParallelRunner(events.log(), events.pipelines(), parallel, lambda: 1)
    try:
        yield runner
    finally:
        runner._stopping = True
        runner._fetching.join()


def fill(events: Events, *messages: Message) -> None:
    log = events.log()
    log.declare([CALLS])
    append(log, messages)


def until(runner: ParallelRunner, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        runner.step()
        assert time.monotonic() < deadline


def posted(events: Events) -> int:
    return trial_balance(events.pipelines().database).get("USD", (0, 0))[0]


@pytest.mark.parametrize("asynchronous", [False, True], ids=["threads", "loop"])
def test_events_of_a_key_keep_their_order_and_all_effects_happen_once(
    events: Events, asynchronous: bool
) -> None:
    number, keys = 400, 8
    began: defaultdict[str, list[int]] = defaultdict(list)
    effects: defaultdict[str, list[int]] = defaultdict(list)
    at_work: Counter[str] = Counter()
    most = 0

    def begin(event: Call) -> None:
        nonlocal most
        began[event.key].append(event.id)
        at_work[event.key] += 1
        assert at_work[event.key] == 1, "one of a key at a time"
        most = max(most, sum(at_work.values()))

    def work(event: Call) -> int:
        begin(event)
        time.sleep(0.002 * (event.id % 3))
        at_work[event.key] -= 1
        return 1

    async def work_asynchronously(event: Call) -> int:
        begin(event)
        await asyncio.sleep(0.002 * (event.id % 3))
        at_work[event.key] -= 1
        return 1

    parallel = Parallel(
        "calls", CALLS, work_asynchronously if asynchronous else work, concurrency=16
    )

    @parallel.then
    def book(event: Call, result: int, context: Context) -> None:
        effects[event.key].append(event.id)
        post(event, result, context)

    fill(events, *(call(each, keys) for each in range(1, number + 1)))
    with running(events, parallel) as runner:
        until(runner, lambda: posted(events) == number)
        runner.close()
    expected = {f"k{key}": [n for n in range(1, number + 1) if n % keys == key] for key in range(8)}
    assert began == effects == expected
    assert most > 1
    store = events.pipelines()
    assert store.positions("calls", "calls")[0] >= number
    assert len(rebuilt_balances(store.database)) == keys + 1


def test_a_restart_does_again_only_what_was_not_done(events: Events) -> None:
    """The first event hangs; those after it are done, and stay done."""
    release, worked = threading.Event(), list[int]()

    def work(event: Call) -> int:
        if event.id == 1:
            release.wait()
        worked.append(event.id)
        return 1

    parallel = Parallel("calls", CALLS, work, order="none", concurrency=4)
    parallel.then(post)
    fill(events, *(call(each) for each in range(1, 21)))
    with running(events, parallel) as runner:
        until(runner, lambda: posted(events) == 19)
        assert events.pipelines().positions("calls", "calls")[0] < 20, "the first is not done"
        # Nothing is closed: as after a kill.
    release.set()
    with running(events, parallel) as runner:
        # The first life's thread ends its work as well, and tells nobody.
        until(runner, lambda: posted(events) == 20 and worked.count(1) == 2)
        until(runner, lambda: events.pipelines().positions("calls", "calls")[0] >= 20)
        assert Counter(worked) == {1: 2} | dict.fromkeys(range(2, 21), 1), "and nothing else"
        runner.close()


def test_a_second_runner_fences_the_first(events: Events) -> None:
    parallel = Parallel("calls", CALLS, lambda event: 1)
    parallel.then(post)
    fill(events, *(call(each) for each in range(1, 11)))
    with running(events, parallel) as old, running(events, parallel) as new:
        with pytest.raises(Fenced):
            until(old, lambda: False)
        until(new, lambda: posted(events) == 10)
        new.close()


def test_memory_is_bounded_while_the_first_event_hangs(embedded: EmbeddedEvents) -> None:
    release, worked = threading.Event(), list[int]()

    def work(event: Call) -> int:
        if event.id == 1:
            release.wait()
        worked.append(event.id)
        return 1

    parallel = Parallel("calls", CALLS, work, order="none", concurrency=4)
    parallel.then(post)
    fill(embedded, *(call(each) for each in range(1, 501)))
    with running(embedded, parallel) as runner:
        until(runner, lambda: len(worked) > 0 and runner.held > parallel.window // 2)
        for _ in range(20):
            runner.step()
            assert runner.held <= parallel.window
        assert len(worked) < parallel.window < 500
        release.set()
        until(runner, lambda: posted(embedded) == 500)
        assert runner.held == 0
        runner.close()


def test_what_fails_is_a_dead_letter_and_holds_nothing_back(events: Events) -> None:
    tries: Counter[int] = Counter()

    async def work(event: Call) -> int:
        tries[event.id] += 1
        if event.id == 3 or (event.id == 4 and tries[4] == 1):
            raise RuntimeError("away")
        return 1

    parallel = Parallel("calls", CALLS, work, backoff_seconds=0.001)

    @parallel.then
    def book(event: Call, result: int, context: Context) -> None:
        post(event, result, context)
        if event.id == 5:
            raise ValueError("no such account")

    fill(events, *(call(each, 2, b"{" if each == 6 else None) for each in range(1, 11)))
    with running(events, parallel) as runner:
        until(runner, lambda: posted(events) == 7)
        until(runner, lambda: len(DeadLetters(events.pipelines()).list()) == 3)
        runner.close()
    letters = {each.event_id: each for each in DeadLetters(events.pipelines()).list()}
    assert {number: letter.tries for number, letter in letters.items()} == {3: 3, 5: 3, 6: 1}
    assert letters[5].error == "ValueError: no such account"
    assert tries[4] == 2


def test_a_subkey_lets_one_hot_key_go_in_parallel_and_keeps_its_own_order(
    embedded: EmbeddedEvents,
) -> None:
    most, at_work = 0, 0
    began: defaultdict[int, list[int]] = defaultdict(list)

    async def work(event: Call) -> int:
        nonlocal most, at_work
        began[event.id % 4].append(event.id)
        at_work += 1
        most = max(most, at_work)
        await asyncio.sleep(0.005)
        at_work -= 1
        return 1

    parallel = Parallel("calls", CALLS, work, subkey=lambda event: str(event.id % 4))
    parallel.then(post)
    fill(embedded, *(call(each, keys=1) for each in range(1, 41)))
    with running(embedded, parallel) as runner:
        until(runner, lambda: posted(embedded) == 40)
        (hot,) = runner.hot_keys()
        runner.close()
    assert (hot.key, hot.share) == ("k0", 1.0)
    assert most == 4
    assert all(order == sorted(order) for order in began.values())


def test_a_hot_key_tells_how_many_of_its_events_wait(embedded: EmbeddedEvents) -> None:
    release = threading.Event()

    def work(event: Call) -> int:
        if event.key == "k0":
            assert release.wait(PATIENCE_SECONDS)
        return 1

    parallel = Parallel("calls", CALLS, work, concurrency=4)
    parallel.then(post)
    fill(embedded, *(call(each, keys=1) for each in range(1, 9)), call(9, keys=2))
    with running(embedded, parallel) as runner:
        until(runner, lambda: posted(embedded) == 1)
        first, second = runner.load()
        assert (first.key, first.waiting, round(first.share, 3)) == ("k0", 8, 0.889)
        assert (second.key, second.waiting) == ("k1", 0)
        release.set()
        until(runner, lambda: posted(embedded) == 9)
        assert [each.waiting for each in runner.load()] == [0, 0]
        runner.close()


def test_what_is_declared_wrong_is_refused_at_once() -> None:
    with pytest.raises(EventsError, match="concurrency"):
        Parallel("calls", CALLS, print, concurrency=0)
    with pytest.raises(EventsError, match="subkey"):
        Parallel("calls", CALLS, print, order="none", subkey=lambda event: "")
    parallel = Parallel("calls", CALLS, print)
    parallel.then(post)
    with pytest.raises(EventsError, match="two functions"):
        parallel.then(post)


@settings(deadline=None)
@given(
    keys=st.lists(st.sampled_from(["a", "b", "c", ALONE]), max_size=30),
    concurrency=st.integers(1, 5),
    chance=st.data(),
)
def test_any_interleaving_keeps_lanes_in_order_and_positions_behind_what_is_done(
    keys: list[str], concurrency: int, chance: st.DataObject
) -> None:
    offsets = [number * 2 for number in range(len(keys))]  # with gaps, as a log may have
    before = set(chance.draw(st.lists(st.sampled_from(offsets), unique=True))) if offsets else set()
    items = [
        Item(Record("t", 0, offset, offset, key, b"x", {}, 1), None, key)
        for offset, key in zip(offsets, keys, strict=True)
    ]
    schedule = Schedule(concurrency, {("t", 0): before})
    coming = list(items)
    at_work: list[Item] = []
    began: defaultdict[str, list[int]] = defaultdict(list)
    done = set(before)
    position = 0
    while True:
        number = chance.draw(st.integers(0 if at_work else 1, 7))
        schedule.add(coming[:number])
        del coming[:number]
        for item in schedule.begin():
            at_work.append(item)
            began[item.lane].append(item.record.offset)
        lanes = [item.lane for item in at_work if item.lane != ALONE]
        assert len(lanes) == len(set(lanes))
        assert len(at_work) == schedule.running <= concurrency
        if at_work:
            schedule.worked(at_work.pop(chance.draw(st.integers(0, len(at_work) - 1))))
        if not at_work or chance.draw(st.booleans()):
            group = schedule.take_worked(chance.draw(st.integers(1, 5)))
            if not group and not at_work and not coming and not schedule.passable():
                break
            positions = schedule.positions(group)
            came = chance.draw(st.integers(0, 7))  # while the commit is under way
            schedule.add(coming[:came])
            del coming[:came]
            schedule.durable(group, positions)
            done |= {item.record.offset for item in group}
            if ("t", 0) in positions:
                following, beyond = positions["t", 0]
                assert following >= position
                position = following
                assert all(offset in done for offset in offsets if offset < position)
                assert set(beyond) == {offset for offset in done if offset >= position}
    assert done == set(offsets)
    assert all(order == sorted(order) for lane, order in began.items() if lane != ALONE)
    assert not (set().union(*began.values()) & before), "nothing is done twice"
    assert schedule.held == schedule.held_bytes == 0
    if offsets:
        assert position == offsets[-1] + 1


@settings(deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=400), st.integers(1, 12))
def test_heavy_hitters_are_never_missed_and_their_counts_are_bounds(
    keys: list[int], capacity: int
) -> None:
    hitters = HeavyHitters(capacity)
    truth: Counter[str] = Counter(map(str, keys))
    for key in keys:
        hitters.add(str(key))
    found = {hot.key: hot for hot in hitters.top(capacity)}
    assert len(found) <= capacity
    total = len(keys)
    for key, hot in found.items():
        assert hot.share - hot.error <= truth[key] / total + 1e-9
        assert hot.share >= truth[key] / total - 1e-9
    for key, count in truth.items():
        assert count * capacity <= total or key in found


def test_a_key_that_was_hot_fades() -> None:
    hitters = HeavyHitters(4, fading=100)
    for _ in range(500):
        hitters.add("yesterday")
    for _ in range(500):
        hitters.add("today")
    shares = {hot.key: hot.share for hot in hitters.top()}
    assert shares["today"] > 0.9
    assert shares.get("yesterday", 0.0) < 0.1


def test_nothing_is_lost_or_doubled_though_the_process_dies_around_its_commits(
    embedded: EmbeddedEvents, tmp_path: Path
) -> None:
    number = 300
    log = embedded.log()
    log.declare([parallel_calls.CALLS])
    append(log, [call(each, keys=9) for each in range(1, number + 1)])
    total = number * (number + 1) // 2
    faults = tmp_path / "faults"
    faults.mkdir()
    command = [sys.executable, parallel_calls.__file__, str(embedded._folder), str(total)]
    environment = {**os.environ, "COUNTERFOIL_FAULTS": str(faults)}
    for life in range(6):
        (faults / f"parallel.{('before', 'after')[life % 2]}-commit").write_text("kill")
        died = subprocess.run(command, env=environment, timeout=60, check=False)
        assert died.returncode == -signal.SIGKILL
    subprocess.run(command, env=environment, timeout=60, check=True)
    database = embedded.pipelines().database
    assert trial_balance(database) == {"USD": (total, total)}
    counts = dict(database.execute("SELECT key, value FROM state").fetchall())
    assert int(counts.pop("transfers")) == number
    assert sum(map(int, counts.values())) == number


def test_the_example_of_the_page_books_each_fee_once(embedded: EmbeddedEvents) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(example, str(PAGE), "exec"), names)  # the page's own code
    payments, payment = names["payments"], names["Payment"]
    log = embedded.log()
    log.declare([payments])
    content = {1: 500, 2: 5_000, 3: 7_000}
    append(
        log,
        [
            Message(number, "payments", "ada", payments.encode(payment(number, "ada", each)), {}, 1)
            for number, each in content.items()
        ],
    )
    runner = ParallelRunner(
        embedded.log(), embedded.pipelines(), names["app"].parallels["screen"], lambda: 1
    )
    done = 0
    while done < 3:
        done += runner.step()
    runner.close()
    assert trial_balance(embedded.pipelines().database) == {"EUR": (200, 200)}
