"""Tables beside a stream in several processes: each knows every row, whoever has its partition."""

import time
from collections.abc import Callable
from contextlib import closing

import msgspec
import pytest

from counterfoil.events import (
    Context,
    DeadLetters,
    EmbeddedEvents,
    Events,
    Message,
    NotCaughtUp,
    Pipeline,
    PipelineRunner,
    ReadModel,
    Relay,
    Share,
    Superseded,
    Topic,
    handle,
    rehearse,
)
from counterfoil.events.consistency import token_of

from .test_exactly_once import PATIENCE_SECONDS, append


class Paid(msgspec.Struct, frozen=True):
    id: int
    customer: str


class Customer(msgspec.Struct, frozen=True):
    country: str


PAID = Topic("paid", Paid, partitions=4)
CUSTOMERS = Topic("customers", Customer, partitions=3, compacted=True)
KEYS = ("ann", "bob", "cid", "dan", "eve")


def locate(event: Paid, context: Context) -> None:
    row = context.row(CUSTOMERS, event.customer)
    context.state.put(str(event.id), (row.country if row else "?").encode())


PIPELINE = Pipeline("locate", PAID, locate, tables=[CUSTOMERS])


def start(events: Events, of: int) -> list[PipelineRunner]:
    return [
        PipelineRunner(events.log(), events.pipelines(), PIPELINE, lambda: 1, Share(number, of))
        for number in range(of)
    ]


def fill(
    events: Events,
    topic: Topic[Paid] | Topic[Customer],
    values: list[tuple[str, bytes]],
    event_id: int = 1,
) -> None:
    log = events.log()
    log.declare([PAID, CUSTOMERS])
    append(log, [Message(event_id, topic.name, key, value, {}, 1) for key, value in values])


def live_in(events: Events, country: str) -> None:
    row = CUSTOMERS.encode(Customer(country))
    fill(events, CUSTOMERS, [(key, row) for key in KEYS])


def pay(events: Events, first: int) -> dict[str, str]:
    """Payments of every customer in every partition; returns the ids with their customers."""
    paid = [(n, KEYS[n % len(KEYS)]) for n in range(first, first + 40)]
    fill(events, PAID, [(f"p{n}", PAID.encode(Paid(n, customer))) for n, customer in paid])
    assert {PAID.partition_of(f"p{n}") for n, _ in paid} == {0, 1, 2, 3}
    return {str(n): customer for n, customer in paid}


def until(runners: list[PipelineRunner], condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        for each in runners:
            each.step()
        assert time.monotonic() < deadline


def state(events: Events, like: str) -> dict[str, bytes]:
    with closing(events.pipelines()) as store:
        rows = store.database.execute("SELECT key, value FROM state WHERE key LIKE ?", (like,))
        return {key: bytes(value) for key, value in rows.fetchall()}


def take_in(events: Events, runners: list[PipelineRunner], key: str, country: str) -> None:
    """Step until each process has a customer in that country."""
    row = CUSTOMERS.encode(Customer(country))

    def done() -> bool:
        found = [value for place, value in state(events, "_table%").items() if key in place]
        return found == [row] * len(runners)

    until(runners, done)


def located(events: Events, runners: list[PipelineRunner], ids: dict[str, str]) -> dict[str, str]:
    """The customers' countries, as they were found for their payments."""
    until(runners, lambda: state(events, "%").keys() >= ids.keys())
    found = state(events, "%")
    return {customer: found[number].decode() for number, customer in ids.items()}


def test_every_process_finds_every_row_and_those_that_change(events: Events) -> None:
    live_in(events, "AT")
    before = pay(events, 0)
    runners = start(events, 2)
    assert located(events, runners, before) == dict.fromkeys(KEYS, "AT")
    live_in(events, "BE")
    for key in KEYS:
        take_in(events, runners, key, "BE")
    after = pay(events, 100)
    assert located(events, runners, after) == dict.fromkeys(KEYS, "BE")


def test_rows_that_changed_in_another_term_are_not_looked_up_in_an_old_copy(
    events: Events,
) -> None:
    for term, (of, country) in enumerate([(2, "AT"), (1, "BE"), (2, "CH"), (1, "DE")]):
        live_in(events, country)
        ids = pay(events, 100 * term)
        assert located(events, start(events, of), ids) == dict.fromkeys(KEYS, country)
    assert len(state(events, "_table%")) == len(KEYS), "no copy is left of terms that are over"


@pytest.mark.parametrize("via", ["retry", "handler"])
def test_a_row_that_can_not_be_read_is_one_letter_and_comes_back_to_all_processes(
    events: Events, via: str
) -> None:
    live_in(events, "AT")
    fill(events, CUSTOMERS, [("ann", b"{")])
    runners = start(events, 2)
    letters = DeadLetters(events.pipelines())
    until(runners, lambda: not any(each._reader.preparing for each in runners))
    (letter,) = letters.list()
    letters.edit(letter.id, CUSTOMERS.encode(Customer("IT")), CUSTOMERS, 2)
    if via == "handler":
        handle(letters, letter.id, PIPELINE, 2)
    else:
        letters.replay(letter.id, 2)
        if not isinstance(events, EmbeddedEvents):
            log = events.log()
            log.declare(PIPELINE.topics())
            with closing(log.appender("_pipelines", 1)) as appender:
                while Relay(events.outbox("_pipelines"), appender).step():
                    continue
    take_in(events, runners, "ann", "IT")
    ids = pay(events, 0)
    assert located(events, runners, ids) == dict.fromkeys(KEYS, "AT") | {"ann": "IT"}


def test_a_letter_that_is_tried_or_handled_finds_the_rows_that_the_processes_have(
    events: Events,
) -> None:
    live_in(events, "AT")
    fill(events, PAID, [("p1", b"{")])
    runners = start(events, 2)
    letters = DeadLetters(events.pipelines())
    until(runners, lambda: len(letters.list()) == 1)
    take_in(events, runners, "ann", "AT")
    (letter,) = letters.list()
    letters.edit(letter.id, PAID.encode(Paid(1, "ann")), PAID, 2)
    assert [str(change.value) for change in rehearse(letters, letter.id, PIPELINE, 2).state] == [
        "AT"
    ]
    handle(letters, letter.id, PIPELINE, 2)
    assert state(events, "1") == {"1": b"AT"}


def test_a_read_model_waits_until_every_process_has_a_row(events: Events) -> None:
    live_in(events, "AT")
    runners = start(events, 2)
    take_in(events, runners, "ann", "AT")
    fill(events, CUSTOMERS, [("ann", CUSTOMERS.encode(Customer("BE")))], event_id=99)
    token = token_of([Message(99, CUSTOMERS.name, "ann", b"", {}, 1)])

    def waited(moving: list[PipelineRunner]) -> int:
        def move(_seconds: float) -> None:
            for each in moving:
                each.step()

        model = ReadModel(events.log(), events.pipelines(), PIPELINE, sleep=move)
        return model.await_caught_up(token, PATIENCE_SECONDS if moving == runners else 0.5).events

    with pytest.raises(NotCaughtUp):
        waited(runners[:1])
    assert waited(runners) == 1
    rows = state(events, "_table%")
    assert {rows[place] for place in rows if "ann" in place} == {CUSTOMERS.encode(Customer("BE"))}


def test_what_is_forgotten_of_a_pipeline_is_forgotten_of_all_its_processes(
    embedded: EmbeddedEvents,
) -> None:
    live_in(embedded, "AT")
    runners = start(embedded, 2)
    located(embedded, runners, pay(embedded, 0))
    store = embedded.pipelines()
    assert store.forget("locate") > 0
    assert store.consumers() == []
    assert state(embedded, "%") == {}
    with pytest.raises(Superseded):
        until(runners, lambda: bool(pay(embedded, 100)) and False)
