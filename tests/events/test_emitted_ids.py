"""What a handler emits has an id of its own, the same each time; a saga's id is taken loudly."""

import msgspec
import pytest

from counterfoil.events import (
    Choreography,
    ChoreographyTracer,
    Context,
    DeadLetters,
    EmbeddedEvents,
    Events,
    EventTime,
    Hopping,
    Message,
    Pipeline,
    PipelineRunner,
    Saga,
    Sagas,
    Timer,
    Topic,
    Window,
    Windowed,
)
from counterfoil.events.identity import identity_of

from .test_exactly_once import SEEN, TOPIC, Paid, append, handle, make_log, message, records
from .test_sagas import TRIPS, Desk, Trip, trip, two_steps

OTHER = Topic("other", Paid)
ONE = Topic("one", Paid, partitions=1)
Pairs = list[tuple[Paid, Context]]


class Number(msgspec.Struct):
    events: int = 0


def count(state: Number, event: Paid) -> Number:
    state.events += 1
    return state


def emit_four(event: Paid, context: Context) -> None:
    for account in ("first", "second", "third"):
        context.emit(SEEN, Paid(event.id, account, event.amount), key="k")
    context.emit(OTHER, event, key="k")


def ids(events: Events, topic: Topic[Paid], number: int) -> dict[tuple[int, str], int]:
    found = records(events, topic, number)
    return {
        (event.id, event.account): each.event_id
        for each in found
        for event in [topic.decode(each.value)]
    }


@pytest.mark.parametrize("batch", [False, True])
def test_the_ids_of_what_is_emitted_differ_and_are_the_same_after_failures(
    embedded: EmbeddedEvents, batch: bool
) -> None:
    failing = iter([True, True])

    def split(event: Paid, context: Context) -> None:
        emit_four(event, context)
        if event.id == 2 and next(failing, False):
            raise RuntimeError("after it has emitted")

    def split_all(pairs: Pairs) -> None:
        for event, context in pairs:
            split(event, context)

    embedded.log().declare([OTHER])
    append(make_log(embedded), [message(number) for number in range(4)])
    handler = split_all if batch else split
    pipeline = Pipeline("split", TOPIC, handler, batch=batch)
    handle(PipelineRunner(make_log(embedded), embedded.pipelines(), pipeline, lambda: 1), 4)
    places = [(1, "second"), (2, "third")]
    assert ids(embedded, SEEN, 12) == {
        (number, account): identity_of("split", number, "seen", place) if place else number
        for number in range(4)
        for place, account in enumerate(("first", *(account for _, account in places)))
    }
    assert set(ids(embedded, OTHER, 4).values()) == {0, 1, 2, 3}


def test_each_event_that_a_handler_emits_begins_a_saga_of_its_own(embedded: EmbeddedEvents) -> None:
    def split(event: Paid, context: Context) -> None:
        for number in (1, 2):
            context.emit(TRIPS, Trip(number), key=f"t{number}")

    saga = Saga("trip", TRIPS)

    @saga.step()
    def note(event: Trip, context: Context) -> None:
        context.state.put(f"trip {event.id}", b"noted")

    desk = Desk(embedded, saga)
    append(make_log(embedded), [message(7)])
    pipeline = Pipeline("split", TOPIC, split)
    handle(PipelineRunner(make_log(embedded), embedded.pipelines(), pipeline, lambda: 1), 1)
    desk.until(lambda: len(desk.sagas.newest()) == 2)
    desk.until(lambda: {each.status for each in desk.sagas.newest()} == {"completed"})
    noted = embedded.pipelines().database.execute("SELECT key FROM state ORDER BY key").fetchall()
    assert noted == [("trip 1",), ("trip 2",)]


def test_what_timers_emit_has_ids_of_their_own_the_same_after_failures(
    embedded: EmbeddedEvents,
) -> None:
    failing = iter([True, False])

    def take(event: Paid, context: Context) -> None:
        context.emit(SEEN, Paid(event.id, "event", 1), key="k")
        for name in ("one", "two"):
            context.timers.set(name, 1, clock="processing")

    def fire(timer: Timer, context: Context) -> None:
        for number in (1, 2):
            context.emit(SEEN, Paid(number, timer.name, 1), key="k")
        if next(failing, False):
            raise RuntimeError("after it has emitted")

    append(make_log(embedded), [message(7)])
    pipeline = Pipeline("timed", TOPIC, take, timer=fire)
    handle(PipelineRunner(make_log(embedded), embedded.pipelines(), pipeline, lambda: 1), 3)
    key = message(7).key
    assert ids(embedded, SEEN, 5) == {(7, "event"): 7} | {
        (number, name): identity_of("timed", 7, "seen", "timer", key, name, 1, number - 1)
        for name in ("one", "two")
        for number in (1, 2)
    }
    found = records(embedded, SEEN, 5)
    assert {each.headers["caused-by"] for each in found} == {"7"}


def test_two_windows_that_one_event_began_begin_two_sagas(embedded: EmbeddedEvents) -> None:
    time = EventTime[Paid](lambda event: event.amount)
    windowed = Windowed("each", ONE, Hopping(2e-6, 1e-6), Number, count, event_time=time)

    @windowed.then
    def begin(window: Window[Number], context: Context) -> None:  # pyright: ignore[reportUnusedFunction]
        context.emit(TRIPS, Trip(window.start_us), key=window.key)

    desk = Desk(embedded, two_steps(lambda: None))
    store = embedded.pipelines()
    runner = PipelineRunner(make_log(embedded), store, windowed.pipeline(), lambda: 1)
    values = [ONE.encode(Paid(number, "a", number)) for number in (10, 90)]
    append(
        make_log(embedded),
        [Message(n, ONE.name, "a", value, {}, 1) for n, value in enumerate(values, 1)],
    )
    handle(runner, 4)  # both events, and the windows of the first one
    desk.until(lambda: len(desk.sagas.newest()) == 2)
    assert DeadLetters(store).list() == []


def test_another_event_with_the_id_of_a_saga_is_a_dead_letter(events: Events) -> None:
    other = Message(1, "trips", "elsewhere", TRIPS.encode(Trip(5)), {}, 1)
    desk = Desk(events, two_steps(lambda: None), trip(1))
    desk.stands("completed")
    desk.append(other)
    letters = DeadLetters(events.pipelines())
    desk.until(lambda: len(letters.list()) == 1)
    (letter,) = letters.list()
    assert (letter.event_id, letter.key) == (1, "elsewhere")
    assert "has begun a saga before" in letter.error
    assert [each.id for each in desk.sagas.newest()] == [1]


def test_a_choreography_follows_all_that_one_handler_tells_of_it(embedded: EmbeddedEvents) -> None:
    log, store = make_log(embedded), embedded.pipelines()
    followed = Choreography("parcels", TOPIC, timeout_seconds=60)
    followed.tells(SEEN, "ship", ends="completed")

    def ship(event: Paid, context: Context) -> None:
        for parcel in ("a", "b"):
            context.emit(SEEN, Paid(event.id, parcel, 1), key=parcel)

    append(log, [message(7)])
    handle(PipelineRunner(log, store, Pipeline("ship", TOPIC, ship), lambda: 1), 1)
    tracer = ChoreographyTracer(log, store, followed, lambda: 1)
    while tracer.step():
        continue
    (saga,) = Sagas(store).newest()
    assert (saga.id, saga.status) == (7, "completed")
    assert [line.step for line in Sagas(store).show(7)[0].timeline].count("ship") == 2


def test_an_id_follows_from_its_parts_and_not_from_their_joints() -> None:
    assert identity_of("a\0b", "c") != identity_of("a", "b\0c")
    assert identity_of("a\0", "\0b") != identity_of("a", "\0\0b")
    assert identity_of("a\x01\x03", "b") != identity_of("a\0", "b")
    assert identity_of("order", 7, "charge", "do") == 2394045018565341840
