"""Content that no handler asked for stops nobody: JSON nested too deep, headers and keys of others.

Whoever may write to a topic may write this, with any client.
"""

import itertools
import time
from collections.abc import Callable

import pytest

from counterfoil.events import (
    Choreography,
    ChoreographyTracer,
    Context,
    DeadLetters,
    Events,
    Message,
    Parallel,
    ParallelRunner,
    Pipeline,
    PipelineRunner,
    Saga,
    SagaCoordinator,
    Sagas,
    StepContext,
    Topic,
)

from .test_exactly_once import PATIENCE_SECONDS, TOPIC, Paid, append

DEEP = b'{"id":2,"account":"a","amount":1,"more":' + b"[" * 5_000 + b"]" * 5_000 + b"}"
"""An event with a field that its type doesn't know, nested deeper than Python goes."""
ASKED, ANSWERED = Topic("asked", Paid, partitions=1), Topic("answered", Paid, partitions=1)
NUMBERS = ("many", "1" * 30, "-1", "")


def paid(number: int, value: bytes | None = None, **other: object) -> Message:
    content = TOPIC.encode(Paid(number, "a", 1)) if value is None else value
    fields = {"topic": "paid", "key": "a", "headers": {}, **other}
    return Message(event_id=number, value=content, timestamp_us=1, **fields)  # type: ignore[arg-type]


def until(step: Callable[[], object], condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        step()
        assert time.monotonic() < deadline


def send(events: Events, *messages: Message) -> None:
    log = events.log()
    log.declare([TOPIC, ASKED, ANSWERED])
    append(log, messages)


@pytest.mark.parametrize("batch", [False, True])
def test_an_event_that_is_nested_too_deep_is_a_dead_letter(events: Events, batch: bool) -> None:
    seen: list[int] = []

    def one(event: Paid, _: Context) -> None:
        seen.append(event.id)

    def all_of(pairs: list[tuple[Paid, Context]]) -> None:
        seen.extend(event.id for event, _ in pairs)

    pipeline = Pipeline("count", TOPIC, all_of if batch else one, batch=batch)
    send(events, paid(1), paid(2, DEEP), paid(3))
    store = events.pipelines()
    runner = PipelineRunner(events.log(), store, pipeline, lambda: 1)
    until(runner.step, lambda: len(seen) == 2)
    assert seen == [1, 3]
    (letter,) = DeadLetters(store).list()
    assert letter.record.event_id == 2
    assert "Recursion" in letter.error


def test_a_row_that_is_nested_too_deep_is_a_dead_letter(events: Events) -> None:
    table = Topic("table", Paid, partitions=1)
    log = events.log()
    log.declare([table])
    append(log, [paid(1, DEEP, topic="table")])
    send(events, paid(2))
    seen: list[Paid | None] = []
    pipeline = Pipeline(
        "look", TOPIC, lambda _, context: seen.append(context.row(table, "a")), tables=[table]
    )
    store = events.pipelines()
    runner = PipelineRunner(events.log(), store, pipeline, lambda: 1)
    until(runner.step, lambda: bool(seen))
    assert seen == [None]
    assert len(DeadLetters(store).list()) == 1


def test_work_beside_an_event_that_is_nested_too_deep_goes_on(events: Events) -> None:
    seen: list[int] = []
    store = events.pipelines()
    send(events, paid(1), paid(2, DEEP), paid(3))
    parallel = Parallel("count", TOPIC, lambda event: seen.append(event.id))
    runner = ParallelRunner(events.log(), store, parallel, lambda: 1)
    until(runner.step, lambda: len(seen) == 2 and len(DeadLetters(store).list()) == 1)
    runner.close()


def saga_of(work: Callable[[Paid, StepContext], None]) -> Saga[Paid]:
    saga = Saga("buy", TOPIC)
    saga.step(tries=1)(work)
    return saga


def coordinated(events: Events, saga: Saga[Paid], clock: Callable[[], int]) -> SagaCoordinator:
    return SagaCoordinator(events.log(), events.pipelines(), saga, fencing_token=1, now_us=clock)


def work(event: Paid, step: StepContext) -> None:
    """Nothing to do."""


def test_a_saga_is_not_begun_by_what_is_nested_too_deep_and_others_go_on(events: Events) -> None:
    send(events, paid(1), paid(2, DEEP), paid(3))
    sagas = Sagas(events.pipelines())
    coordinator = coordinated(events, saga_of(work), lambda: 1)
    until(coordinator.step, lambda: sagas.counts() == {"buy": {"completed": 2}})
    assert len(DeadLetters(events.pipelines()).list()) == 1


def test_a_saga_takes_any_key_and_any_error_of_its_steps(events: Events) -> None:
    def fail(event: Paid, step: StepContext) -> None:
        raise ValueError("half a character: \ud800, and \0")

    saga = saga_of(fail)
    send(events, paid(1, key="a\0b"), paid(2))
    sagas = Sagas(events.pipelines())
    coordinator = coordinated(events, saga, lambda: 1)
    until(coordinator.step, lambda: sagas.counts() == {"buy": {"compensated": 2}})
    (found,) = sagas.show(1)
    assert found.error == "ValueError: half a character: ?, and \ufffd"


def test_an_answer_without_a_saga_that_could_be_meant_is_passed_over(events: Events) -> None:
    saga = Saga("buy", TOPIC)

    @saga.ask(ASKED, ANSWERED, timeout_seconds=60)
    def charge(event: Paid, step: StepContext) -> Paid:
        return event

    send(events, paid(1))
    sagas = Sagas(events.pipelines())
    coordinator = coordinated(events, saga, lambda: 1)
    until(coordinator.step, lambda: bool(sagas.newest()) and sagas.newest()[0].waiting)
    retry = saga.own_topics()[0].name
    for number, topic in itertools.product(NUMBERS, ("answered", retry)):
        send(events, paid(9, topic=topic, headers={"saga": "buy", "saga-id": number}))
    told = {"saga": "buy", "saga-id": "1", "saga-step": "charge"}
    send(events, paid(9, topic="answered", headers=told))
    until(coordinator.step, lambda: sagas.counts() == {"buy": {"completed": 1}})


def test_a_choreography_follows_what_it_can_and_passes_over_the_rest(events: Events) -> None:
    dance = Choreography("buy", TOPIC, timeout_seconds=60)
    dance.tells(ANSWERED, "charge", ends="completed")
    sagas = Sagas(events.pipelines())
    for number, header in itertools.product(NUMBERS, ("saga-id", "caused-by")):
        send(events, paid(9, topic="answered", headers={header: number}))
    send(events, paid(1, key="a\0b"), paid(7, topic="answered", headers={"caused-by": "1"}))
    log = events.log()
    tracer = ChoreographyTracer(log, events.pipelines(), dance, lambda: 2)
    until(tracer.step, lambda: bool(sagas.newest()) and sagas.newest()[0].status == "completed")
    assert [each.id for each in sagas.newest()] == [1]
