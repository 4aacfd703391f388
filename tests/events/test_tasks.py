"""Tasks: each by itself, once acknowledged, again if its worker dies; on both databases."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from counterfoil.events import (
    Command,
    Context,
    DeadLetters,
    EmbeddedEvents,
    Events,
    EventsError,
    PipelineRunner,
    Relay,
    Reply,
    ServiceStore,
    TaskQueue,
    TaskWorker,
    Unit,
    task_counts,
    trial_balance,
)
from counterfoil.events.database import Cursor, Database
from counterfoil.events.tasks.waiting import LEVELS, OLDEST, Taking, Waiting
from events import resize_tasks
from events.test_exactly_once import PATIENCE_SECONDS

PAGE = Path(__file__).parents[2] / "docs" / "tasks.md"
SECOND = 1_000_000


class Image(msgspec.Struct, frozen=True):
    name: str


class Session:
    """A handler's transaction, with the time of the test."""

    def __init__(self, database: Database, now_us: int = 0) -> None:
        self.now_us = now_us
        self._database = database

    def execute(self, sql: str, parameters: Sequence[object] = ()) -> Cursor:
        return self._database.execute(sql, parameters)


class Place:
    """A queue with its workers, and tasks put straight into its table."""

    def __init__(self, events: Events, queue: TaskQueue[Any]) -> None:
        self.events, self.queue, self.now_us = events, queue, SECOND
        self.database = events.pipelines().database
        self.taking = Taking(self.database, queue.name)
        events.log().declare(queue.pipeline().topics())

    def worker(self) -> TaskWorker:
        return TaskWorker(self.events.pipelines(), self.queue, lambda: self.now_us)

    def put(self, *names: str, level: str = "normal", due_us: int = 0, unique: str | None = None):
        for name in names:
            content = msgspec.json.encode(Image(name))
            Waiting(Session(self.database, self.now_us), self.queue.name).add(
                content, level=LEVELS[level], visible_us=due_us, unique=unique
            )

    def left(self) -> int:
        return self.database.execute("SELECT count(*) FROM tasks").fetchone()[0]


def until(worker: TaskWorker, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        worker.step()
        assert time.monotonic() < deadline


def test_a_slow_task_holds_back_nobody(events: Events) -> None:
    release, done = threading.Event(), list[str]()

    def work(image: Image) -> None:
        if image.name == "slow":
            assert release.wait(PATIENCE_SECONDS)
        done.append(image.name)

    place = Place(events, TaskQueue("images", Image, work, concurrency=2))
    place.put("slow", *map(str, range(20)))
    worker = place.worker()
    until(worker, lambda: len(done) == 20)
    assert "slow" not in done
    release.set()
    until(worker, lambda: place.left() == 0)
    worker.close()
    assert Counter(done).most_common(1)[0][1] == 1


def test_two_workers_share_and_do_nothing_twice(events: Events) -> None:
    done: Counter[str] = Counter()

    async def work(image: Image) -> int:
        done[image.name] += 1
        return 1

    queue = TaskQueue("images", Image, work, concurrency=4)

    @queue.then
    def note(image: Image, number: int, context: Context) -> None:
        context.state.put("count", str(int(context.state.get("count") or b"0") + number).encode())

    place = Place(events, queue)
    place.put(*map(str, range(60)))

    def run() -> None:
        worker = place.worker()
        while place_left() > 0:
            worker.step()
        worker.close()

    def place_left() -> int:
        own = events.pipelines()
        try:
            return own.database.execute("SELECT count(*) FROM tasks").fetchone()[0]
        finally:
            own.close()

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_SECONDS)
    assert len(done) == 60
    assert set(done.values()) == {1}
    assert place.database.execute("SELECT value FROM state").fetchall() == [(b"60",)]


def test_urgent_tasks_come_first_and_then_those_that_wait_longest(events: Events) -> None:
    done: list[str] = []
    queue = TaskQueue("images", Image, lambda image: done.append(image.name), concurrency=1)
    place = Place(events, queue)
    place.put("late", due_us=3)
    place.put("low", level="low", due_us=1)
    place.put("early", due_us=2)
    place.put("high", level="high", due_us=4)
    worker = place.worker()
    until(worker, lambda: place.left() == 0)
    worker.close()
    assert done == ["high", "early", "late", "low"]


@pytest.mark.parametrize("room", [1, 3, 8])
def test_no_task_waits_for_ever_behind_urgent_ones(events: Events, room: int) -> None:
    queue = TaskQueue("images", Image, lambda _: None)
    place = Place(events, queue)
    for number in range(20):
        place.put(f"high-{number}", level="high", due_us=100 + number)
    place.put("low", level="low", due_us=1)
    place.put("normal", due_us=2)
    taken: list[str] = []
    while len(taken) < 22:
        place.put(f"more-{len(taken)}", level="high", due_us=200)
        with place.database.transaction():
            found = place.taking.take(place.now_us, 2 * place.now_us, room)
        taken += [msgspec.json.decode(task.content, type=Image).name for task in found]
    assert taken.index("low") < OLDEST + room
    assert taken.index("normal") < 2 * OLDEST + room
    urgent = [name for name in taken if name not in ("low", "normal")]
    assert urgent[:20] == [f"high-{number}" for number in range(20)]


def test_a_queue_is_counted_by_what_its_tasks_wait_for(events: Events) -> None:
    def work(_: Image) -> None:
        raise RuntimeError("no memory")

    queue = TaskQueue("images", Image, work, concurrency=1, tries=1)
    place = Place(events, queue)
    place.put("given up", level="high")
    worker = place.worker()
    until(worker, lambda: place.left() == 0)
    worker.close()
    place.put("urgent", level="high", due_us=3)
    place.put("taken", level="high", due_us=2)
    place.put("a", "b", due_us=4)
    place.put("later", level="low", due_us=place.now_us + 1)
    with place.database.transaction():
        place.taking.take(place.now_us, 2 * place.now_us, 1)
    images, other = task_counts(place.events.pipelines(), place.now_us, ["images", "other"])
    assert (images.waiting, images.delayed, images.at_work, images.dead) == (3, 1, 1, 1)
    assert images.by_priority == {"high": 1, "normal": 2, "low": 0}
    assert images.oldest_us == 3
    assert (other.queue, other.waiting, other.dead, other.oldest_us) == ("other", 0, 0, None)


def test_a_delayed_task_comes_when_it_is_due_and_within_100_ms(events: Events) -> None:
    begun: list[float] = []
    queue = TaskQueue("images", Image, lambda image: begun.append(time.time()))
    place = Place(events, queue)
    due = [time.time() + 0.1 * number for number in range(1, 8)]
    for each in due:
        place.put("delayed", due_us=int(each * SECOND))
    worker = TaskWorker(events.pipelines(), queue, lambda: time.time_ns() // 1_000)
    until(worker, lambda: len(begun) == len(due))
    worker.close()
    late = sorted(was - wanted for was, wanted in zip(begun, due, strict=True))
    assert late[0] >= 0, "never too early"
    # The median: this machine may be busy with something else for a moment.
    assert late[len(late) // 2] < 0.1, late


def test_a_task_whose_worker_is_gone_is_given_to_another_after_its_lease(events: Events) -> None:
    tasks: list[str] = []
    queue = TaskQueue("images", Image, lambda image: tasks.append(image.name))
    place = Place(events, queue)
    place.put("a")
    with place.database.transaction():
        (taken,) = place.taking.take(place.now_us, place.now_us + 30 * SECOND, 5)
    worker = place.worker()
    for _ in range(3):
        worker.step()
    assert tasks == [], "somebody has it"
    place.now_us += 30 * SECOND
    until(worker, lambda: place.left() == 0)
    worker.close()
    assert tasks == ["a"]
    assert not place.taking.finish(taken), "who was first is too late"


def test_a_worker_that_lives_keeps_what_it_works_on(events: Events) -> None:
    release = threading.Event()
    place = Place(events, TaskQueue("images", Image, lambda image: release.wait(PATIENCE_SECONDS)))
    place.put("long")
    worker = place.worker()
    until(worker, lambda: bool(worker._at_work))
    other = place.worker()
    for _ in range(20):
        place.now_us += 12 * SECOND  # of a lease of 30
        worker.step()
        assert other._take() == 0
    place.now_us += int(place.queue.limit_seconds) * SECOND
    worker._extend()
    assert other._take() == 0, "a clock that was set forward is no task that hangs"
    for _ in range(int(place.queue.limit_seconds) // 12):
        place.now_us += 12 * SECOND
        worker._extend()
    place.now_us += int(place.queue.visibility_seconds) * SECOND
    assert other._take() == 1, "what hangs for too long is given to another"
    release.set()
    until(other, lambda: place.left() == 0)
    other.close()
    until(worker, lambda: not worker._at_work)
    worker.close()


def test_a_worker_keeps_what_it_works_on_though_its_clock_was_set_back(events: Events) -> None:
    release, begun = threading.Event(), list[str]()

    def work(image: Image) -> None:
        begun.append(image.name)
        release.wait(PATIENCE_SECONDS)

    place = Place(events, TaskQueue("images", Image, work))
    place.now_us = 3_600 * SECOND
    worker = place.worker()
    worker.step()
    place.now_us = SECOND
    place.put("long")
    until(worker, lambda: bool(begun))
    for _ in range(10):
        place.now_us += 12 * SECOND  # of a lease of 30
        worker.step()
    release.set()
    until(worker, lambda: place.left() == 0)
    worker.close()
    assert begun == ["long"]


def test_a_task_that_is_given_back_at_the_end_of_its_worker_was_not_tried(
    events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("counterfoil.events.tasks.worker.DRAIN_SECONDS", 0.05)
    release = threading.Event()
    queue = TaskQueue("images", Image, lambda _: release.wait(PATIENCE_SECONDS), tries=2)
    place = Place(events, queue)
    place.put("long")
    for _ in range(queue.tries + 2):  # as often as the application is deployed anew meanwhile
        worker = place.worker()
        until(worker, lambda worker=worker: bool(worker._at_work))
        worker.close()
    release.set()
    worker = place.worker()
    until(worker, lambda: place.left() == 0)
    worker.close()
    assert DeadLetters(events.pipelines()).list() == []


def test_a_failed_task_is_tried_again_later_and_then_a_dead_letter_that_can_be_replayed(
    events: Events,
) -> None:
    tries: list[int] = []

    def work(image: Image) -> None:
        tries.append(place.now_us)
        if len(tries) <= 3:
            raise RuntimeError("no memory")

    queue = TaskQueue("images", Image, work, tries=3)
    place = Place(events, queue)
    place.put("a", level="low", unique="one")
    worker = place.worker()
    for waits, number in ((0, 1), (1, 2), (2, 3)):
        for _ in range(3):
            worker.step()
        assert len(tries) == number - 1 + (waits == 0)
        place.now_us += waits * SECOND
        until(worker, lambda number=number: len(tries) == number and not worker._at_work)
    letters = DeadLetters(place.events.pipelines())
    (letter,) = letters.list()
    assert (letter.pipeline, letter.error, letter.tries) == (
        "tasks.images",
        "RuntimeError: no memory",
        3,
    )
    assert place.left() == 0
    log = events.log()
    log.declare(queue.pipeline().topics())
    letters.replay(letter.id, 1)
    relay(events, log)
    taking_over = PipelineRunner(log, events.pipelines(), queue.pipeline(), lambda: 1)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not taking_over.step():
        assert time.monotonic() < deadline
    again = place.database.execute("SELECT level, is_unique FROM tasks").fetchall()
    assert again == [(LEVELS["low"], "one")], "as it was sent at first"
    until(worker, lambda: len(tries) == 4 and place.left() == 0)
    worker.close()


def relay(events: Events, log: Any) -> None:
    """Move what was sent into the log, where that is a relay's work."""
    if isinstance(events, EmbeddedEvents):
        return
    appender = log.appender("_pipelines", 1)
    while Relay(events.outbox("_pipelines"), appender).step():
        continue
    appender.close()


def test_a_task_that_kills_its_workers_does_not_go_on_for_ever(embedded: EmbeddedEvents) -> None:
    place = Place(embedded, TaskQueue("images", Image, print, tries=2))
    place.put("bomb")
    for _ in range(2):
        with place.database.transaction():
            assert place.taking.take(place.now_us, place.now_us + SECOND, 1)
        place.now_us += SECOND
    worker = place.worker()
    until(worker, lambda: place.left() == 0)
    worker.close()
    (letter,) = DeadLetters(embedded.pipelines()).list()
    assert "2 workers have died" in letter.error


def test_effects_that_fail_make_a_dead_letter_and_leave_nothing(embedded: EmbeddedEvents) -> None:
    queue = TaskQueue("images", Image, lambda image: 1)

    @queue.then
    def note(image: Image, number: int, context: Context) -> None:
        context.state.put(image.name, b"1")
        if image.name == "bad":
            raise ValueError("no such album")

    place = Place(embedded, queue)
    place.put("good", "bad")
    worker = place.worker()
    until(worker, lambda: place.left() == 0)
    worker.close()
    assert place.database.execute("SELECT key FROM state").fetchall() == [("good",)]
    (letter,) = DeadLetters(embedded.pipelines()).list()
    assert letter.error == "ValueError: no such album"


def test_a_unique_task_is_there_once_until_it_is_done(events: Events) -> None:
    done: list[str] = []
    queue = TaskQueue("images", Image, lambda image: done.append(image.name))
    place = Place(events, queue)
    place.put("first", unique="album")
    place.put("second", unique="album")
    place.put("other", unique="portrait")
    worker = place.worker()
    until(worker, lambda: place.left() == 0)
    place.put("third", unique="album")
    until(worker, lambda: place.left() == 0)
    worker.close()
    assert sorted(done) == ["first", "other", "third"]


def test_a_worker_that_ends_finishes_what_it_has_begun_and_begins_nothing(
    embedded: EmbeddedEvents,
) -> None:
    begun, done = threading.Event(), list[str]()

    def work(image: Image) -> None:
        begun.set()
        time.sleep(0.2)
        done.append(image.name)

    place = Place(embedded, TaskQueue("images", Image, work, concurrency=1))
    place.put("a", "b")
    worker = place.worker()
    until(worker, begun.is_set)
    worker.close()
    assert done == ["a"]
    assert place.left() == 1
    (counts,) = task_counts(embedded.pipelines(), place.now_us)
    assert (counts.waiting, counts.at_work, counts.delayed) == (1, 0, 0)


def test_tasks_leave_a_service_with_its_rows_and_arrive_once(embedded: EmbeddedEvents) -> None:
    queue = TaskQueue("images", Image, print)
    store = ServiceStore(embedded.service("s"), [], next_id=lambda: 7, clock_us=lambda: SECOND)

    def handle(unit: Unit) -> Reply:
        queue.send(unit, Image("now"), priority="high")
        queue.send(unit, Image("later"), delay_seconds=60, unique="u")
        return Reply(201, b"", {})

    store.submit(Command("k", b"h", {}, handle)).result()
    store.close()
    log = embedded.log()
    log.declare(queue.pipeline().topics())
    Relay(embedded.outbox("s"), log.appender("s", 1)).step()
    place = Place(embedded, queue)
    taking_over = PipelineRunner(log, embedded.pipelines(), queue.pipeline(), lambda: 2 * SECOND)
    assert taking_over.step() == 2
    rows = place.database.execute("SELECT level, visible_us, is_unique FROM tasks ORDER BY id")
    assert rows.fetchall() == [(0, 2 * SECOND, None), (1, 61 * SECOND, "u")]
    (counts,) = task_counts(embedded.pipelines(), 3 * SECOND)
    assert (counts.waiting, counts.delayed, counts.oldest_us) == (1, 1, 2 * SECOND)


def test_nothing_is_lost_and_effects_are_once_though_workers_die(
    embedded: EmbeddedEvents, tmp_path: Path
) -> None:
    place = Place(embedded, resize_tasks.queue)
    place.put(*map(str, range(40)))
    faults = tmp_path / "faults"
    faults.mkdir()
    command = [sys.executable, resize_tasks.__file__, str(embedded._folder)]
    environment = {**os.environ, "COUNTERFOIL_FAULTS": str(faults)}
    for life in range(4):
        (faults / f"tasks.{('before', 'after')[life % 2]}-commit").write_text("kill")
        died = subprocess.run(command, env=environment, timeout=60, check=False)
        assert died.returncode == -signal.SIGKILL
    subprocess.run(command, env=environment, timeout=60, check=True)
    assert place.left() == 0
    assert trial_balance(place.database) == {"PIX": (40, 40)}


def test_what_is_declared_wrong_is_refused_at_once() -> None:
    with pytest.raises(EventsError, match="concurrency"):
        TaskQueue("images", Image, print, concurrency=0)
    with pytest.raises(EventsError, match="tries"):
        TaskQueue("images", Image, print, tries=0)
    queue = TaskQueue("images", Image, print)
    queue.then(lambda image, result, context: None)
    with pytest.raises(EventsError, match="two functions"):
        queue.then(lambda image, result, context: None)
    with pytest.raises(EventsError, match="delay"):
        queue.send(None, Image("a"), delay_seconds=-1)  # type: ignore[arg-type]


def test_the_example_of_the_page_makes_small_images(embedded: EmbeddedEvents) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(example, str(PAGE), "exec"), names)  # the page's own code
    queue = names["app"].queues["thumbnails"]
    store = embedded.pipelines()
    database = store.database
    worker = TaskWorker(store, queue, lambda: SECOND)
    content = msgspec.json.encode(names["Resize"]("cat.png", 100, 50, bytes(range(256)) * 20))
    Waiting(Session(database), queue.name).add(content, level=1, visible_us=0, unique=None)
    until(worker, lambda: database.execute("SELECT count(*) FROM tasks").fetchone() == (0,))
    worker.close()
    ((key, value),) = database.execute("SELECT key, value FROM state").fetchall()
    assert key == "cat.png"
    assert len(value) == 100 * 50 // 4
