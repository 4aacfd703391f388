"""Tables beside streams, on both engines: what is looked up is committed with what it led to."""

import random
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from counterfoil import faults
from counterfoil.events import (
    Context,
    DeadLetters,
    EmbeddedEvents,
    Events,
    EventsError,
    Message,
    Pipeline,
    PipelineRunner,
    Topic,
    handle,
)
from events.test_exactly_once import append
from events.window_sums import READS, Died, Read, messages, note, running, to_rest, told


class Meter(msgspec.Struct, frozen=True):
    place: str


METERS = Topic("meters", Meter, partitions=2, compacted=True)
OTHER = Topic("other", Meter, partitions=1)


def locate(event: Read, context: Context) -> None:
    meter = context.row(METERS, event.meter)
    note(context, f"{event.at}", "nowhere" if meter is None else meter.place)


LOCATE = Pipeline("locate", READS, locate, tables=[METERS])


def meter(name: str, place: str | None, number: int = 1) -> Message:
    value = b"" if place is None else METERS.encode(Meter(place))
    return Message(number, METERS.name, name, value, {}, 1)


def fill(events: Events, *sent: Message) -> None:
    log = events.log()
    log.declare([READS, METERS])
    append(log, sent)


def located(events: Events) -> dict[str, str]:
    return told(events.pipelines(), "locate")


def test_events_find_the_rows_that_were_there_before_their_pipeline_began(events: Events) -> None:
    made = Pipeline("locate", READS, locate, tables=[METERS], commit_limit=1)
    fill(events, *messages([Read("a", 1), Read("b", 2), Read("c", 3)]))
    rows = [meter("a", f"cellar {number}", number) for number in range(1, 6)]
    fill(events, *rows, meter("b", "roof"))
    with running(events, made) as runner:
        to_rest(runner, 3 + 6)
    assert located(events) == {"1": "cellar 5", "2": "roof", "3": "nowhere"}


def test_rows_change_and_go_and_a_restart_knows_them(events: Events) -> None:
    fill(events, meter("a", "cellar"), meter("b", "roof"))
    with running(events, LOCATE) as runner:
        to_rest(runner, 2)
        fill(events, meter("a", None), meter("b", "shed"))
        to_rest(runner, 2)
    with running(events, LOCATE) as runner:
        fill(events, *messages([Read("a", 1), Read("b", 2)]))
        to_rest(runner, 2)
    assert located(events) == {"1": "nowhere", "2": "shed"}


def test_what_is_no_row_is_a_dead_letter_and_the_row_before_it_stays(events: Events) -> None:
    fill(events, meter("a", "cellar"), Message(7, METERS.name, "a", b'{"place": 1}', {}, 1))
    letters = DeadLetters(events.pipelines())
    with running(events, LOCATE) as runner:
        fill(events, *messages([Read("a", 1)]))
        to_rest(runner, 2 + 1)
        assert located(events) == {"1": "cellar"}
        (letter,) = letters.list()
        assert (letter.topic, letter.event_id, letter.tries) == ("meters", 7, 1)
        letters.edit(letter.id, METERS.encode(Meter("attic")), METERS, 1)
        handle(letters, letter.id, LOCATE, 1)
        fill(events, *messages([Read("a", 2)], first=2))
        to_rest(runner, 1)
    assert located(events) == {"1": "cellar", "2": "attic"}


def test_a_replayed_row_is_taken_in(embedded: EmbeddedEvents) -> None:
    fill(embedded, Message(7, METERS.name, "a", b'{"place": 1}', {}, 1))
    letters = DeadLetters(embedded.pipelines())
    with running(embedded, LOCATE) as runner:
        to_rest(runner, 1)
        letters.edit(letters.list()[0].id, METERS.encode(Meter("attic")), METERS, 1)
        letters.replay(letters.list()[0].id, 1)
        to_rest(runner, 1)
        fill(embedded, *messages([Read("a", 2)]))
        to_rest(runner, 1)
    assert located(embedded) == {"2": "attic"}


def test_a_table_that_was_not_declared_is_refused(embedded: EmbeddedEvents) -> None:
    def wrong(event: Read, context: Context) -> None:
        with pytest.raises(EventsError, match="no table 'other'"):
            context.row(OTHER, event.meter)
        locate(event, context)

    fill(embedded, *messages([Read("a", 1)]))
    with running(embedded, Pipeline("locate", READS, wrong, tables=[METERS])) as runner:
        to_rest(runner, 1)
    assert located(embedded) == {"1": "nowhere"}
    with pytest.raises(EventsError, match="as a table too"):
        Pipeline("locate", READS, locate, tables=[READS])


@settings(max_examples=20, deadline=None)
@given(
    changes=st.lists(
        st.tuples(st.sampled_from("ab"), st.sampled_from(["cellar", "roof", None])), max_size=12
    ),
    seed=st.integers(0, 2**32),
)
def test_after_any_crashes_rows_are_the_newest_and_no_event_is_handled_twice(
    changes: list[tuple[str, str | None]], seed: int
) -> None:
    chance = random.Random(seed)

    def reached(point: str) -> None:
        if point.startswith("pipeline.") and chance.random() < 0.3:
            raise Died

    def crashing(events: Events, done: Callable[[], bool]) -> None:
        runner = None
        while not done():
            try:
                runner = runner or PipelineRunner(events.log(), events.pipelines(), made, lambda: 1)
                runner.step()
            except Died:
                runner = None

    made = Pipeline("locate", READS, locate, tables=[METERS], commit_limit=chance.randint(1, 5))
    with TemporaryDirectory() as folder, faults.observed(reached):
        events = EmbeddedEvents(Path(folder))
        fill(events, *(meter(name, place, n) for n, (name, place) in enumerate(changes, 1)))
        fill(events, *messages(Read("ab"[n % 2], n) for n in range(6)))
        crashing(events, lambda: len(located(events)) == 6)
        newest = dict(changes)
        expected = {str(n): newest.get("ab"[n % 2]) or "nowhere" for n in range(6)}
        assert located(events) == expected
