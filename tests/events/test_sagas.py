"""Sagas: forward, backward, late, stuck; on both engines where log and database matter."""

import time
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from counterfoil.events import (
    DeadLetters,
    EmbeddedEvents,
    Events,
    EventsError,
    Fenced,
    LogUnavailable,
    Message,
    NoSuchSaga,
    Relay,
    Saga,
    SagaCoordinator,
    SagaPlace,
    Sagas,
    SagaView,
    Selection,
    StepContext,
    StepFailed,
    Topic,
    rebuilt_balances,
)
from counterfoil.events.sagas.coordinator import BATCH
from counterfoil.events.sagas.hearing import AGAIN_US
from counterfoil.events.sagas.progress import AFTER, Outcome, Progress, begun, resumed
from counterfoil.events.schemas import Format
from events.test_exactly_once import PATIENCE_SECONDS, append

SECOND = 1_000_000


class Trip(msgspec.Struct, frozen=True):
    id: int


class Booked(msgspec.Struct, frozen=True):
    seat: str


TRIPS = Topic("trips", Trip)
ASKED, BOOKED = Topic("asked", Trip, partitions=1), Topic("booked", Booked, partitions=1)


def trip(number: int, value: bytes | None = None) -> Message:
    content = TRIPS.encode(Trip(number)) if value is None else value
    return Message(number, "trips", f"t{number}", content, {"tenant": "home"}, 1)


class Desk:
    """A saga, its coordinator, and a clock that the test moves."""

    def __init__(self, events: Events, saga: Saga[Trip], *trips: Message, token: int = 1) -> None:
        self.events, self.saga, self.now_us = events, saga, SECOND
        self.log = events.log()
        self.log.declare([TRIPS, ASKED, BOOKED, *saga.own_topics()])
        self.appended = 0
        self.append(*trips)
        self.coordinator = self.lead(token)
        self.sagas = Sagas(events.pipelines())

    def lead(self, token: int) -> SagaCoordinator:
        return SagaCoordinator(
            self.log,
            self.events.pipelines(),
            self.saga,
            fencing_token=token,
            now_us=lambda: self.now_us,
        )

    def append(self, *messages: Message) -> None:
        append(self.log, messages)

    def until(self, condition: Callable[[], bool]) -> None:
        """Step until the condition holds, without any time passing for the saga."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            self.coordinator.step()
            assert time.monotonic() < deadline, self.sagas.newest()

    def stands(self, status: str, number: int = 1) -> SagaView:
        """The saga, once it has this status and nothing is left to do now."""
        self.until(lambda: any(each.status == status for each in self.found(number)))
        return self.found(number)[0]

    def found(self, number: int = 1) -> list[SagaView]:
        try:
            return self.sagas.show(number)
        except NoSuchSaga:
            return []

    def outcomes(self, number: int = 1) -> list[str]:
        (found,) = self.sagas.show(number)
        return [f"{line.direction} {line.step}: {line.outcome}" for line in found.timeline]


def two_steps(fail: Callable[[], Exception | None], *, undo_tries: int = 2) -> Saga[Trip]:
    saga = Saga("trip", TRIPS)

    @saga.step()
    def hotel(event: Trip, step: StepContext) -> Booked:
        step.ledger.transfer(
            id=step.effect_id, debit="hotel", credit="me", amount=5, currency="USD", code="h"
        )
        return Booked(step.key)

    @hotel.compensate(tries=undo_tries, backoff_seconds=1)
    def cancel(event: Trip, step: StepContext) -> None:
        step.ledger.transfer(
            id=step.effect_id, debit="me", credit="hotel", amount=5, currency="USD", code="c"
        )
        if isinstance(error := fail(), ArithmeticError):
            raise error

    @saga.step(tries=3, backoff_seconds=1)
    def flight(event: Trip, step: StepContext) -> None:
        assert step.result_of(hotel).seat == f"trip/{event.id}/hotel/do"
        step.state.put("flown", b"half")
        if (error := fail()) is not None:
            raise error

    return saga


def test_a_step_that_fails_is_tried_again_later_and_later(events: Events) -> None:
    tries: list[int] = []

    def fail() -> Exception | None:
        tries.append(desk.now_us)
        return RuntimeError("away") if len(tries) < 3 else None

    desk = Desk(events, two_steps(fail), trip(1))
    desk.until(lambda: len(tries) == 1)
    for waits, number in ((1, 2), (2, 3)):
        desk.coordinator.step()
        assert len(tries) == number - 1, "not before its time"
        desk.now_us += waits * SECOND
        desk.coordinator.step()
        assert len(tries) == number
    assert desk.stands("completed").ended_us == desk.now_us
    assert desk.outcomes() == [
        "do hotel: done",
        "do flight: failed",
        "do flight: failed",
        "do flight: done",
    ]


def test_after_the_last_try_everything_is_taken_back(events: Events) -> None:
    def fail() -> Exception | None:
        desk.now_us += 10 * SECOND
        return RuntimeError("away")

    desk = Desk(events, two_steps(fail), trip(1))
    view = desk.stands("compensated")
    assert view.error == "RuntimeError: away"
    assert desk.outcomes()[-2:] == ["do flight: failed", "undo hotel: done"]
    store = events.pipelines()
    balances = rebuilt_balances(store.database)
    assert balances == {("hotel", "USD"): (5, 5), ("me", "USD"): (5, 5)}
    assert store.database.execute("SELECT * FROM state").fetchall() == [], "what failed is undone"


def test_a_step_that_the_database_refuses_fails_alone(embedded: EmbeddedEvents) -> None:
    saga = Saga("conflict", TRIPS)

    @saga.step(tries=1)
    def post(event: Trip, step: StepContext) -> None:
        step.state.put(f"posted/{event.id}", b"1")
        step.ledger.transfer(
            id=7, debit="a", credit="b", amount=event.id, currency="USD", code="same id"
        )

    desk = Desk(embedded, saga, trip(1), trip(2))
    desk.stands("completed", 1)
    assert desk.stands("compensated", 2).error.startswith("LedgerConflict")
    database = embedded.pipelines().database
    assert database.execute("SELECT key FROM state").fetchall() == [("posted/1",)]


def test_a_refusal_is_not_tried_again(embedded: EmbeddedEvents) -> None:
    desk = Desk(embedded, two_steps(lambda: StepFailed("full")), trip(1))
    desk.stands("compensated")
    assert desk.outcomes() == ["do hotel: done", "do flight: refused", "undo hotel: done"]


def test_a_compensation_that_fails_waits_for_a_person_and_then_goes_on(events: Events) -> None:
    broken = True

    def fail() -> Exception | None:
        desk.now_us += 10 * SECOND
        return ArithmeticError("broken") if broken else None

    desk = Desk(events, two_steps(fail), trip(1))
    desk.stands("stuck")
    assert desk.outcomes()[-3:] == ["undo hotel: failed", "undo hotel: failed", "undo hotel: stuck"]
    letters = DeadLetters(desk.events.pipelines())
    (letter,) = letters.list(Selection(pipeline="saga.trip"))
    assert (letter.event_id, letter.error) == (1, "ArithmeticError: broken")
    broken = False
    letters.replay(letter.id, desk.now_us)
    relay(events, desk)
    desk.stands("compensated")
    assert desk.outcomes()[-2:] == ["undo hotel: resumed", "undo hotel: done"]


def test_a_compensation_is_given_what_its_dead_letter_was_edited_to(events: Events) -> None:
    saga, given = Saga("trip", TRIPS), list[int]()

    @saga.step()
    def hotel(event: Trip, step: StepContext) -> None:
        """Booked."""

    @hotel.compensate(tries=1)
    def cancel(event: Trip, step: StepContext) -> None:
        given.append(event.id)
        if event.id == 1:
            raise ArithmeticError("nobody knows this one")

    @saga.step()
    def flight(event: Trip, step: StepContext) -> None:
        raise StepFailed("full")

    desk = Desk(events, saga, trip(1))
    desk.stands("stuck")
    letters = DeadLetters(desk.events.pipelines())
    (letter,) = letters.list(Selection(pipeline="saga.trip"))
    letters.edit(letter.id, TRIPS.encode(Trip(7)), TRIPS, desk.now_us)
    letters.replay(letter.id, desk.now_us)
    relay(events, desk)
    desk.stands("compensated")
    assert given == [1, 7]


def relay(events: Events, desk: Desk) -> None:
    """Move what was sent into the log, where that is a relay's work."""
    if isinstance(events, EmbeddedEvents):
        return
    appender = desk.log.appender("_pipelines", 1)
    while Relay(events.outbox("_pipelines"), appender).step():
        continue
    appender.close()


def asking(check: Exception | None = None, **settings: float) -> Saga[Trip]:
    saga = Saga("ask", TRIPS, **settings)

    @saga.ask(ASKED, BOOKED, timeout_seconds=5)
    def seat(event: Trip, step: StepContext) -> Trip:
        return event

    @seat.answered
    def taken(event: Trip, answer: Booked, step: StepContext) -> None:
        if check is not None:
            raise check

    @seat.compensate(tries=1)
    def free(event: Trip, step: StepContext) -> None:
        step.state.put("freed", b"1")

    @saga.step()
    def tell(event: Trip, step: StepContext) -> None:
        step.state.put("seat", step.result_of(seat).seat.encode())

    return saga


def answer_to(desk: Desk, value: bytes = b'{"seat":"4F"}') -> Message:
    """The answer to what was asked, as a participant emits it."""
    relay(desk.events, desk)
    reader = desk.log.reader([ASKED], lambda _: {})
    batches = []
    desk.until(lambda: bool(batches.extend(reader.fetch(10)) or batches))
    reader.close()
    (record,) = batches[0].records
    assert record.headers["tenant"] == "home"
    return Message(record.event_id, "booked", record.key, value, record.headers, 1)


def waiting(desk: Desk) -> bool:
    return bool(desk.found()) and desk.outcomes() == ["do seat: asked"]


def test_an_answer_finds_its_step_and_is_its_result(events: Events) -> None:
    desk = Desk(events, asking(), trip(1))
    desk.until(lambda: waiting(desk))
    desk.append(answer_to(desk))
    desk.stands("completed")
    (kept,) = events.pipelines().database.execute("SELECT key, value FROM state").fetchall()
    assert kept == ("seat", b"4F")


def test_without_an_answer_in_time_the_step_itself_is_taken_back(events: Events) -> None:
    desk = Desk(events, asking(), trip(1))
    desk.until(lambda: waiting(desk))
    late = answer_to(desk)
    desk.now_us += 5 * SECOND
    desk.stands("compensated")
    assert desk.outcomes() == ["do seat: asked", "do seat: unanswered", "undo seat: done"]
    desk.append(late)
    desk.until(lambda: desk.outcomes()[-1] == "do seat: late")
    assert desk.found()[0].status == "compensated"


def test_an_answer_that_came_while_nobody_led_is_found_before_its_step_is_taken_back(
    events: Events,
) -> None:
    desk = Desk(events, asking(), trip(1))
    desk.until(lambda: waiting(desk))
    others = [Message(number, "booked", "k", b"{}", {}, 1) for number in range(BATCH + 100)]
    desk.append(*others, answer_to(desk))
    desk.coordinator.close()
    desk.now_us += 3_600 * SECOND
    desk.coordinator = desk.lead(2)
    desk.stands("completed")
    assert desk.outcomes() == ["do seat: asked", "do seat: done", "do tell: done"]


def test_other_sagas_go_on_while_a_log_that_is_away_leaves_answers_in_doubt(
    embedded: EmbeddedEvents, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk(embedded, asking(), trip(1))
    desk.until(lambda: waiting(desk))
    asked: list[str] = []

    def away(topic: str) -> dict[int, int]:
        asked.append(topic)
        raise LogUnavailable("no broker answered")

    with monkeypatch.context() as patch:
        patch.setattr(desk.log, "ends", away)
        desk.now_us += 5 * SECOND
        for _ in range(10):
            desk.coordinator.step()
        assert (desk.outcomes(), asked) == (["do seat: asked"], ["booked"])
    desk.now_us += AGAIN_US
    desk.append(trip(2))
    desk.stands("compensated")
    assert desk.found(2)[0].status == "running"


@pytest.mark.parametrize(
    ("check", "value", "taken_back"),
    [
        (StepFailed("full"), b'{"seat":"4F"}', False),
        (RuntimeError("a bug"), b'{"seat":"4F"}', True),
        (None, b"{", True),
    ],
    ids=["refused", "check fails", "not JSON"],
)
def test_an_answer_that_is_no_answer_is_in_doubt_and_taken_back(
    embedded: EmbeddedEvents, check: Exception | None, value: bytes, taken_back: bool
) -> None:
    desk = Desk(embedded, asking(check), trip(1))
    desk.until(lambda: waiting(desk))
    desk.append(answer_to(desk, value))
    desk.stands("compensated")
    assert ("undo seat: done" in desk.outcomes()) == taken_back


def test_a_saga_that_takes_too_long_is_taken_back(embedded: EmbeddedEvents) -> None:
    desk = Desk(embedded, asking(timeout_seconds=2), trip(1))
    desk.until(lambda: waiting(desk))
    desk.now_us += 2 * SECOND
    desk.stands("compensated")
    assert desk.outcomes() == ["do seat: asked", "do seat: overdue", "undo seat: done"]


def test_an_old_coordinator_is_fenced(events: Events) -> None:
    desk = Desk(events, two_steps(lambda: None), trip(1))
    old = desk.coordinator
    desk.coordinator = desk.lead(2)
    desk.stands("completed")
    desk.append(trip(2))
    with pytest.raises(Fenced):
        for _ in range(1_000):
            old.step()
    desk.stands("completed", 2)
    assert len(desk.outcomes()) == len(desk.outcomes(2)) == 2


def test_what_cannot_be_read_is_a_dead_letter_and_a_repeated_event_begins_once(
    events: Events,
) -> None:
    desk = Desk(events, two_steps(lambda: None), trip(1), trip(2, b"{"), trip(1))
    desk.stands("completed")
    letters = DeadLetters(events.pipelines())
    desk.until(lambda: {letter.event_id for letter in letters.list()} == {1, 2})
    assert [each.id for each in desk.sagas.newest()] == [1]


def test_a_step_that_was_removed_parks_what_stands_at_it(embedded: EmbeddedEvents) -> None:
    desk = Desk(embedded, two_steps(lambda: RuntimeError("away")), trip(1))
    desk.until(lambda: len(desk.found()) == 1 and len(desk.outcomes()) == 2)
    removed = desk.saga.steps.pop()
    desk.now_us += SECOND
    assert "not declared" in desk.stands("stuck").error
    desk.saga.steps.append(removed)
    (letter,) = DeadLetters(embedded.pipelines()).list()
    DeadLetters(embedded.pipelines()).replay(letter.id, 1)
    relay(embedded, desk)
    desk.until(lambda: "do flight: resumed" in desk.outcomes())


def test_ended_sagas_are_forgotten_after_their_retention(embedded: EmbeddedEvents) -> None:
    desk = Desk(embedded, two_steps(lambda: None), trip(1))
    desk.stands("completed")
    desk.now_us += int(desk.saga.retention_seconds) * SECOND + 1
    desk.until(lambda: desk.found() == [])
    database = embedded.pipelines().database
    assert database.execute("SELECT * FROM saga_lines").fetchall() == []


def test_ended_sagas_are_forgotten_while_others_keep_coming(embedded: EmbeddedEvents) -> None:
    desk = Desk(embedded, two_steps(lambda: None), trip(1))
    desk.stands("completed")
    desk.now_us += int(desk.saga.retention_seconds) * SECOND + 1
    for number in range(2, 5):
        desk.append(trip(number))
        assert desk.coordinator.step() > 0, "there is always something to do"
    assert desk.found() == []


def test_a_compensation_that_is_answered_between_two_tries_is_done(events: Events) -> None:
    saga = Saga("trip", TRIPS)

    @saga.step()
    def seat(event: Trip, step: StepContext) -> None: ...

    @seat.compensate_by_asking(ASKED, BOOKED, timeout_seconds=5, tries=2, backoff_seconds=60)
    def free(event: Trip, step: StepContext) -> Trip:
        return event

    @saga.step()
    def fail(event: Trip, step: StepContext) -> None:
        raise StepFailed("no")

    desk = Desk(events, saga, trip(1))
    desk.until(lambda: bool(desk.found()) and desk.outcomes()[-1] == "undo seat: asked")
    answer = answer_to(desk)
    desk.now_us += 5 * SECOND
    desk.until(lambda: desk.outcomes()[-1] == "undo seat: unanswered")
    desk.append(answer)
    desk.stands("compensated")
    assert desk.outcomes()[-2:] == ["undo seat: unanswered", "undo seat: done"]


@pytest.mark.parametrize("format_", ["avro", "protobuf"])
def test_an_answer_is_read_in_the_format_of_its_topic(
    embedded: EmbeddedEvents, format_: Format
) -> None:
    asked = Topic("asked-so", Trip, partitions=1, format=format_)
    booked = Topic("booked-so", Booked, partitions=1, format=format_)
    saga = Saga("trip", TRIPS)

    @saga.ask(asked, booked, timeout_seconds=5)
    def seat(event: Trip, step: StepContext) -> Trip:
        return event

    @saga.step()
    def tell(event: Trip, step: StepContext) -> None:
        step.state.put("seat", step.result_of(seat).seat.encode())

    desk = Desk(embedded, saga, trip(1))
    desk.until(lambda: waiting(desk))
    headers = {"saga": "trip", "saga-id": "1", "saga-step": "seat", "saga-direction": "do"}
    desk.append(Message(9, booked.name, "t1", booked.encode(Booked("4F")), headers, 1))
    desk.stands("completed")
    assert embedded.pipelines().database.execute("SELECT value FROM state").fetchall() == [(b"4F",)]


def test_sagas_are_paged_and_those_that_are_open_counted(events: Events) -> None:
    broken: list[Exception] = []
    saga = two_steps(lambda: broken[0] if broken else None)
    desk = Desk(events, saga, *(trip(number) for number in range(1, 6)))
    for number in range(1, 6):
        desk.stands("completed", number)
    broken.append(ArithmeticError("broken"))
    desk.append(trip(9))
    desk.until(lambda: len(desk.found(9)) == 1 and len(desk.outcomes(9)) >= 2)
    assert desk.sagas.open(["trip", "other"]) == {"trip": {"running": 1}, "other": {}}
    first = desk.sagas.newest(limit=4)
    last = first[-1]
    rest = desk.sagas.newest(before=SagaPlace(last.started_us, last.id, last.saga), limit=4)
    assert sorted(each.id for each in [*first, *rest]) == [1, 2, 3, 4, 5, 9]
    assert (len(first), len(rest)) == (4, 2)
    (waits,) = desk.sagas.newest(status="running")
    assert (waits.step, waits.tries, waits.wake_us) == ("flight", 1, desk.now_us + SECOND)
    nothing = desk.sagas.newest(saga="trip", before=SagaPlace(0, 0, ""))
    assert nothing == []


def test_what_is_declared_wrong_is_refused_at_once() -> None:
    saga = two_steps(lambda: None)
    with pytest.raises(EventsError, match="two compensations"):
        saga.steps[0].compensate()(lambda event, step: None)
    with pytest.raises(EventsError, match="two steps"):
        saga.step()(saga.steps[0].do.handler)
    with pytest.raises(EventsError, match="asks nobody"):
        saga.steps[0].answered(lambda event, answer, step: None)
    with pytest.raises(EventsError, match="tries"):
        saga.step(tries=0)(lambda event, step: None)


OUTCOMES: list[Outcome] = ["done", "failed", "refused", "unclear", "unanswered", "overdue"]


@settings(deadline=None)
@given(
    undoable=st.lists(st.booleans(), min_size=1, max_size=6),
    chance=st.lists(st.sampled_from(OUTCOMES), max_size=60),
)
def test_every_way_ends_with_all_steps_done_or_those_done_taken_back_in_reverse(
    undoable: list[bool], chance: list[Outcome]
) -> None:
    saga = Saga("any", TRIPS)
    for number, can in enumerate(undoable):

        def handler(event: Trip, step: StepContext) -> None: ...

        handler.__name__ = f"s{number}"
        step = saga.step(tries=2)(handler)
        if can:
            step.compensate(tries=2)(handler)
    progress: Progress = begun(0)
    maybe_done: list[int] = []
    undone: list[int] = []
    for now_us in range(1_000):
        if progress.ended:
            break
        if progress.status == "stuck":
            progress = resumed(progress, now_us)
        outcome: Outcome = chance[now_us] if now_us < len(chance) else "done"
        if progress.status == "running" and outcome in ("done", "unclear", "unanswered"):
            maybe_done.append(progress.at)
        if progress.status == "compensating":
            if outcome == "overdue":
                outcome = "failed"
            if outcome == "done":
                undone.append(progress.at)
        progress = AFTER[outcome](saga.steps, progress, now_us)
    assert progress.ended
    if progress.status == "completed":
        assert maybe_done == list(range(len(undoable)))
        assert undone == []
    else:
        assert undone == [step for step in reversed(maybe_done) if undoable[step]]
