"""Pipelines with state in several processes: nothing is lost or doubled, whoever has what."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from itertools import groupby
from pathlib import Path

import pytest

from counterfoil.engines import RunningEngine
from counterfoil.events import (
    Context,
    DeadLetters,
    EmbeddedEvents,
    Events,
    EventsError,
    KafkaEvents,
    Pipeline,
    PipelineRunner,
    Relay,
    Share,
    Superseded,
    handle,
    lag,
    trial_balance,
)
from counterfoil.events.shares import ALL

from . import shared_counts
from .shared_counts import CALLS, KEYS, Call, calls, count
from .test_exactly_once import PATIENCE_SECONDS, append

NAME = "counts"
PROGRAM = Path(shared_counts.__file__)


def make(
    events: Events, share: Share, handler: Callable[..., None] = count, **settings: object
) -> PipelineRunner:
    log = events.log()
    log.declare([CALLS])
    pipeline = Pipeline(NAME, CALLS, handler, **settings)  # type: ignore[arg-type]
    return PipelineRunner(log, events.pipelines(), pipeline, lambda: 1, share)


def send(events: Events, numbers: range) -> None:
    log = events.log()
    log.declare([CALLS])
    append(log, calls(numbers))


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline


def handle_together(runners: list[PipelineRunner], number: int) -> None:
    handled = 0

    def done() -> bool:
        nonlocal handled
        handled += sum(each.step() for each in runners)
        return handled >= number

    until(done)
    assert handled == number


def state(events: Events) -> dict[str, int]:
    rows = events.pipelines().database.execute(
        "SELECT key, value FROM state WHERE pipeline = ?", (NAME,)
    )
    return {key: int(value) for key, value in rows}


def counted(number: int) -> dict[str, int]:
    """What the state has to be after so many calls."""
    each = {f"k{key}": len(range(key, number, KEYS)) for key in range(KEYS)}
    return {key: times for key, times in each.items() if times} | {"all": number}


def shares(of: int) -> list[Share]:
    return [Share(number, of) for number in range(of)]


def test_each_process_handles_its_partitions_and_all_share_one_state(events: Events) -> None:
    send(events, range(60))
    runners = [make(events, share) for share in shares(2)]
    handle_together(runners, 60)
    send(events, range(60, 120))
    handle_together(runners, 60)
    assert state(events) == counted(120)
    assert trial_balance(events.pipelines().database) == {"USD": (120, 120)}
    of_source = [each for each in lag(events.log(), events.pipelines()) if each.topic == "calls"]
    assert {each.group for each in of_source} == {NAME}
    assert len({each.partition for each in of_source}) > 2


def test_processes_that_count_in_one_key_at_the_same_time_lose_no_count(events: Events) -> None:
    send(events, range(400))
    stop = threading.Event()

    def work(share: Share) -> None:
        with closing(make(events, share, commit_limit=10)) as runner:
            while not stop.is_set():
                runner.step()

    with ThreadPoolExecutor(3) as pool:
        working = [pool.submit(work, share) for share in shares(3)]
        try:
            until(lambda: any(each.done() for each in working) or _all(events) >= 400)
        finally:
            stop.set()
        for each in working:
            each.result(PATIENCE_SECONDS)
    assert state(events) == counted(400)


def _all(events: Events) -> int:
    time.sleep(0.05)
    with closing(events.pipelines()) as store:
        row = store.database.execute(
            "SELECT value FROM state WHERE pipeline = ? AND key = 'all'", (NAME,)
        ).fetchone()
    return int(row[0]) if row else 0


def test_what_another_process_has_written_is_read_and_not_the_memory_of_it(
    events: Events,
) -> None:
    """One process sets a rate, all apply it: each event sees the newest that was committed."""
    seen: list[bytes | None] = []

    def apply(event: Call, context: Context) -> None:
        if event.key == setter:
            context.state.put("rate", str(event.id).encode())
        elif event.key == user:
            seen.append(context.state.get("rate"))

    own, others = shares(2)
    keys = {share: _key_of(share) for share in (own, others)}
    setter, user = keys[own], keys[others]
    setting, using = make(events, own, apply), make(events, others, apply)
    for number in range(4):
        for runner, key in ((using, user), (setting, setter), (using, user)):
            _send_one(events, number, key)
            handle_together([runner], 1)
    # An event is handled once more when what it has read turns out to be old.
    assert [value for value, _ in groupby(seen)] == [None, b"0", b"1", b"2", b"3"]


def _key_of(share: Share) -> str:
    return next(f"k{n}" for n in range(KEYS) if share.has(CALLS.partition_of(f"k{n}")))


def _send_one(events: Events, number: int, key: str) -> None:
    log = events.log()
    log.declare([CALLS])
    (message,) = calls(range(number, number + 1))
    value = CALLS.encode(Call(number, key))
    append(log, [type(message)(number, "calls", key, value, {}, 1)])


def test_a_key_that_is_deleted_by_one_process_is_gone_for_the_others(events: Events) -> None:
    kept: list[bytes | None] = []

    def work(event: Call, context: Context) -> None:
        kept.append(context.state.get("note"))
        if kept[-1] is None:
            context.state.put("note", event.key.encode())
        else:
            context.state.delete("note")

    first, second = shares(2)
    runners = {share: make(events, share, work) for share in (first, second)}
    for number, share in enumerate([first, second, first, first, second, second]):
        _send_one(events, number, _key_of(share))
        handle_together([runners[share]], 1)
        rows = events.pipelines().database.execute("SELECT key FROM state").fetchall()
        assert len(rows) == (number + 1) % 2


def test_another_number_of_processes_ends_those_before(events: Events) -> None:
    send(events, range(60))
    alone = make(events, ALL, commit_limit=20)
    while alone.step() == 0:
        continue
    three = [make(events, share) for share in shares(3)]
    send(events, range(60, 120))
    with pytest.raises(Superseded, match="the term of 1 processes is over, 3 are now"):
        until(lambda: alone.step() < 0)
    done = _all(events)
    handle_together(three, 120 - done)
    two = [make(events, share) for share in shares(2)]
    again = make(events, ALL)
    send(events, range(120, 180))
    for each in (*three, *two):
        with pytest.raises(Superseded):
            until(lambda each=each: each.step() < 0)
    handle_together([again], 60)
    assert state(events) == counted(180)
    assert trial_balance(events.pipelines().database) == {"USD": (180, 180)}


def test_a_process_that_slept_over_a_change_and_back_commits_nothing(events: Events) -> None:
    sleeping = make(events, Share(0, 2))
    make(events, Share(0, 3)).close()
    back = [make(events, share) for share in shares(2)]
    send(events, range(40))
    with pytest.raises(Superseded):
        until(lambda: sleeping.step() < 0)
    handle_together(back, 40)
    assert state(events) == counted(40)


def test_twins_with_one_share_handle_nothing_twice(events: Events) -> None:
    runners = [make(events, share, commit_limit=7) for share in shares(2) for _ in range(2)]
    for begin in range(0, 200, 50):
        send(events, range(begin, begin + 50))
        handle_together(runners, 50)
    assert state(events) == counted(200)


def test_a_dead_letter_comes_back_wherever_its_key_belongs(events: Events) -> None:
    poisonous = True

    def fail_at_first(event: Call, context: Context) -> None:
        count(event, context)
        if poisonous and event.id % 10 == 0:
            raise RuntimeError("poison")

    send(events, range(60))
    runners = [make(events, share, fail_at_first) for share in shares(2)]
    handle_together(runners, 60)
    store = events.pipelines()
    letters = DeadLetters(store)
    assert len(letters.list()) == 6
    poisonous = False
    pipeline = Pipeline(NAME, CALLS, fail_at_first)
    first, *rest = [each.id for each in letters.list()]
    handle(letters, first, pipeline, 2)  # at once, between two commits of the processes
    for each in rest:
        letters.replay(each, 2)
    _relay(events, pipeline)
    handle_together(runners, 5)
    send(events, range(60, 120))
    handle_together(runners, 60)
    assert state(events) == counted(120)


def _relay(events: Events, pipeline: Pipeline[Call]) -> None:
    if isinstance(events, EmbeddedEvents):
        return
    log = events.log()
    log.declare(pipeline.topics())
    with closing(log.appender("_pipelines", 1)) as appender:
        while Relay(events.outbox("_pipelines"), appender).step():
            continue


def test_more_processes_than_partitions_are_refused(events: Events) -> None:
    with pytest.raises(EventsError, match="more processes than its topic has partitions"):
        make(events, Share(0, 7))


class Shares:
    """Processes with a share each; none is left over."""

    def __init__(self, where: list[str], secret: str) -> None:
        self._where = where
        self._environment = {**os.environ, "PGPASSWORD": secret}
        self.running: list[subprocess.Popen[str]] = []

    def start(self, *shares: Share) -> None:
        started = [
            subprocess.Popen(
                [sys.executable, PROGRAM, str(share.number), str(share.of), *self._where],
                env=self._environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            for share in shares
        ]
        self.running += started
        for each in started:
            assert each.stdout is not None
            assert each.stdout.readline() == "ready\n"

    def kill(self, each: subprocess.Popen[str]) -> None:
        each.kill()
        each.wait(PATIENCE_SECONDS)
        self.running.remove(each)


def _is_asleep(process: subprocess.Popen[str]) -> bool:
    return Path(f"/proc/{process.pid}/stat").read_text().split()[2] == "T"


@contextmanager
def programs(where: list[str], secret: str) -> Iterator[Shares]:
    made = Shares(where, secret)
    try:
        yield made
    finally:
        for each in list(made.running):
            made.kill(each)


def test_killed_paused_and_dealt_anew_while_events_come_each_counts_once(
    engine: Callable[[str], RunningEngine],
) -> None:
    """From two processes to three, to one, to two: with kills, and old owners that wake up."""
    application = f"test-{random.randrange(10**12)}"
    kafka, postgres = engine("kafka"), engine("postgres")
    events = KafkaEvents(kafka.address, postgres.address, postgres.secret, application)
    where = [kafka.address, postgres.address, application]
    sent = 0

    def send_more() -> None:
        nonlocal sent
        send(events, range(sent, sent + 300))
        sent += 300

    with programs(where, postgres.secret or "") as processes:
        for of in (2, 3, 1, 2):
            before = list(processes.running)
            for each in before[:1]:  # it will stop with events that it has fetched
                each.send_signal(signal.SIGUSR1)
            send_more()
            for each in before[:1]:
                until(lambda each=each: _is_asleep(each))
            for each in before[1:]:
                processes.kill(each)
            processes.start(*shares(of))
            for each in before[:1]:
                each.send_signal(signal.SIGCONT)
                assert each.wait(PATIENCE_SECONDS) == 1, "its term is over"
                processes.running.remove(each)
            send_more()
            done = _all(events)
            processes.kill(processes.running[-1])
            processes.start(Share(of - 1, of))
            more = min(done + 1, sent)  # it may be all by now
            until(lambda more=more: _all(events) >= more)
        until(lambda: _all(events) >= sent)
        assert all(each.poll() is None for each in processes.running)
    assert state(events) == counted(sent)
    assert trial_balance(events.pipelines().database) == {"USD": (sent, sent)}
