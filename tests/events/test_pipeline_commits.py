"""One commit of a pipeline: what handlers did is written together, and yet each event's alone."""

import random
from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from counterfoil.events import (
    Context,
    DeadLetters,
    EmbeddedEvents,
    Events,
    Pipeline,
    PipelineRunner,
    trial_balance,
)
from counterfoil.events.generations import ENTRY_BYTES, Generations
from counterfoil.events.messages import Message
from counterfoil.events.record_batches import BATCH_BYTES, BATCH_RECORDS, decode, encode, split

from .test_exactly_once import TOPIC, Paid, append, handle, make_log, message, post

Pairs = list[tuple[Paid, Context]]


def running(events: Events, handler: Callable[..., None], **settings: object) -> PipelineRunner:
    pipeline = Pipeline("p", TOPIC, handler, **settings)  # type: ignore[arg-type]
    return PipelineRunner(make_log(events), events.pipelines(), pipeline, lambda: 1)


def count(event: Paid, context: Context) -> None:
    """Counts an account's events in keyed state; an amount of 666 fails after it has counted."""
    seen = int(context.state.get(event.account) or b"0") + 1
    context.state.put(event.account, str(seen).encode())
    if event.amount == 666:
        raise RuntimeError("poison")


def counts(events: Events) -> dict[str, int]:
    rows = events.pipelines().database.execute("SELECT key, value FROM state WHERE pipeline = 'p'")
    return {key: int(value) for key, value in rows}


def test_state_of_a_failed_event_is_undone_within_the_commit(events: Events) -> None:
    amounts = [666 if number % 5 == 0 else 1 for number in range(30)]
    append(make_log(events), [message(number, amount) for number, amount in enumerate(amounts)])
    handle(running(events, count), 30)
    assert counts(events) == {"a0": 8, "a1": 8, "a2": 8}
    assert len(DeadLetters(events.pipelines()).list()) == 6


def test_a_batch_handler_fails_for_the_poisonous_events_alone(events: Events) -> None:
    poisonous = {3, 4, 17, 29}
    append(make_log(events), [message(n, 666 if n in poisonous else 1) for n in range(30)])
    calls: list[int] = []

    def count_all(pairs: Pairs) -> None:
        calls.append(len(pairs))
        for event, context in pairs:
            count(event, context)

    handle(running(events, count_all, batch=True), 30)
    assert sum(counts(events).values()) == 26
    letters = DeadLetters(events.pipelines()).list()
    assert {letter.event_id: letter.tries for letter in letters} == dict.fromkeys(poisonous, 3)
    assert max(calls) > 1


def test_a_batch_handler_gets_every_event_of_a_commit_at_once(embedded: EmbeddedEvents) -> None:
    append(make_log(embedded), [message(number) for number in range(30)])
    calls: list[int] = []
    handle(running(embedded, lambda pairs: calls.append(len(pairs)), batch=True), 30)
    assert calls == [30]


def test_a_commit_takes_no_more_of_a_partition_than_its_limit(embedded: EmbeddedEvents) -> None:
    same_key = [Message(n, "paid", "a", message(n).value, {}, 1) for n in range(25)]
    append(make_log(embedded), same_key)
    seen: list[int] = []
    runner = running(embedded, lambda event, _: seen.append(event.id), commit_limit=10)
    assert [runner.step() for _ in range(4)] == [10, 10, 5, 0]
    assert seen == list(range(25))


def test_a_twin_that_wrote_state_is_believed_and_not_the_memory_of_it(events: Events) -> None:
    log = make_log(events)
    first, second = running(events, count), running(events, count)
    for round_, runner in enumerate([first, second, first, second]):
        append(log, [message(round_ * 3 + number) for number in range(3)])
        handled = 0
        while handled < 3:
            handled += runner.step()
        other = second if runner is first else first
        other._reader.rewind()
    assert counts(events) == {"a0": 4, "a1": 4, "a2": 4}


def test_a_stream_that_comes_three_times_shuffled_has_one_effect(events: Events) -> None:
    stream = [message(number, number) for number in range(20)] * 3
    random.Random(7).shuffle(stream)
    append(make_log(events), stream[:30])
    running_ = running(events, post)
    handle(running_, 30)
    append(make_log(events), stream[30:])
    handle(running_, 30)
    assert trial_balance(events.pipelines().database) == {"USD": (190, 190)}
    assert DeadLetters(events.pipelines()).list() == []


def test_a_conflict_with_an_earlier_commit_is_one_events_failure(events: Events) -> None:
    append(make_log(events), [message(number) for number in range(5)])
    running_ = running(events, post)
    handle(running_, 5)
    append(make_log(events), [message(number, 7 if number == 3 else 100) for number in range(8)])
    handle(running_, 8)
    assert trial_balance(events.pipelines().database) == {"USD": (800, 800)}
    assert [letter.event_id for letter in DeadLetters(events.pipelines()).list()] == [3]


def test_what_no_database_can_keep_is_one_events_failure(events: Events) -> None:
    append(make_log(events), [message(number) for number in range(6)])

    def keep(event: Paid, context: Context) -> None:
        count(event, context)
        if event.id == 4:
            context.state.put("\ud800", b"half of a character")

    handle(running(events, keep), 6)
    assert counts(events) == {"a0": 2, "a1": 1, "a2": 2}
    assert [letter.event_id for letter in DeadLetters(events.pipelines()).list()] == [4]


def test_an_error_that_no_database_can_keep_is_buried_all_the_same(events: Events) -> None:
    append(make_log(events), [message(1)])

    def fail(event: Paid, context: Context) -> None:
        raise RuntimeError("\0 and \ud800")

    handle(running(events, fail, tries=1), 1)
    (letter,) = DeadLetters(events.pipelines()).list()
    assert letter.error == "RuntimeError: \ufffd and ?"


def test_a_handlers_own_sql_is_part_of_its_event(events: Events) -> None:
    append(make_log(events), [message(n, 666 if n % 4 == 0 else n) for n in range(12)])
    store = events.pipelines()
    store.database.create(["CREATE TABLE IF NOT EXISTS mine (id INTEGER PRIMARY KEY, seen TEXT)"])

    def keep(event: Paid, context: Context) -> None:
        context.execute("INSERT INTO mine VALUES (?, ?)", (event.id, event.account))
        count(event, context)

    handle(running(events, keep), 12)
    rows = store.database.execute("SELECT id, seen FROM mine ORDER BY id").fetchall()
    assert rows == [(n, f"a{n % 3}") for n in range(12) if n % 4]
    assert sum(counts(events).values()) == 9


def test_own_sql_sees_what_earlier_events_of_the_commit_have_written(
    embedded: EmbeddedEvents,
) -> None:
    append(make_log(embedded), [message(number) for number in range(3)])
    seen: list[int] = []

    def look(event: Paid, context: Context) -> None:
        rows = context.execute("SELECT count(*) FROM state WHERE pipeline = 'p'")
        seen.append(rows.fetchone()[0])
        context.state.put(str(event.id), b"")

    handle(running(embedded, look), 3)
    assert seen == [0, 1, 2]


@settings(max_examples=50, deadline=None)
@given(sizes=st.lists(st.integers(0, 300_000), max_size=30))
def test_portions_keep_order_and_stay_within_their_limits(sizes: list[int]) -> None:
    messages = [Message(n, "t", "k", b"x" * size, {}, n) for n, size in enumerate(sizes)]
    portions = list(split(messages))
    assert [each for portion in portions for each in portion] == messages
    for portion in portions:
        assert len(portion) <= BATCH_RECORDS
        assert len(portion) == 1 or sum(len(each.value) for each in portion) <= BATCH_BYTES


def test_a_batch_gives_back_what_went_in() -> None:
    messages = [Message(n, "t", f"k{n}", bytes([n]), {"h": "v"}, n) for n in range(2_500)[:200]]
    records = decode("t", 3, 1_199, encode(messages))
    assert [record.offset for record in records] == list(range(1_000, 1_200))
    for record, sent in zip(records, messages, strict=True):
        assert (record.topic, record.partition, record.event_id) == ("t", 3, sent.event_id)
        assert (record.key, record.value, record.headers) == (sent.key, sent.value, sent.headers)


@settings(deadline=None)
@given(uses=st.lists(st.tuples(st.integers(0, 50), st.integers(0, 1_000)), max_size=300))
def test_a_memory_is_bounded_and_never_wrong(uses: list[tuple[int, int]]) -> None:
    limit = 10 * ENTRY_BYTES
    memory: Generations[int, int] = Generations(limit)
    truth: dict[int, int] = {}
    for key, value in uses:
        assert memory.get(key, -1) in (truth.get(key, -1), -1)
        memory.put(key, value, value)
        truth[key] = value
        assert memory.get(key, -1) == value
        assert len(memory._young) + len(memory._old) <= 2 * (limit // ENTRY_BYTES + 1)
