"""Dead letters on both engines: found, edited, replayed and discarded, once, and written down."""

import itertools
import threading
import time
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterfoil.events import (
    AuditEntry,
    Context,
    DeadLetter,
    DeadLetters,
    DeadLetterSettled,
    EventLog,
    Events,
    EventsError,
    HandlerFailed,
    InvalidReplacement,
    Message,
    NoSuchDeadLetter,
    Outcome,
    Pace,
    Pipeline,
    PipelineRunner,
    PipelineStore,
    Record,
    Selection,
    StoreUnavailable,
    Topic,
    act_on_each,
    handle,
    in_order,
    readable,
    rehearse,
)
from counterfoil.events.dead_letters import bury


class Paid(msgspec.Struct, frozen=True):
    id: int
    amount: int


TOPIC = Topic("paid", Paid)
SECOND = 1_000_000


def record(number: int, *, topic: str = "paid", key: str = "k", value: bytes = b"{") -> Record:
    return Record(topic, 0, number, 1_000 + number, key, value, {"tenant": "t"}, 5)


def fill(
    store: PipelineStore,
    records: Sequence[Record],
    *,
    pipeline: str = "ledger",
    error: str = "poison",
    at: int = 0,
) -> None:
    """Bury records, one a second from `at` seconds on."""
    with store.database.transaction():
        for number, each in enumerate(records):
            failed_us = (at + number) * SECOND
            bury(store, pipeline, each, RuntimeError(error), tries=3, now_us=failed_us)


SEEN = Topic("seen", Paid)


def post(event: Paid, context: Context) -> None:
    """Does one of each: a transfer, an event, state, a row of its own; fails on 666."""
    balance = int(context.state.get("balance") or b"0") + event.amount
    context.state.put("balance", str(balance).encode())
    context.ledger.transfer(
        id=event.id, debit="a", credit="shop", amount=event.amount, currency="USD", code="p"
    )
    context.emit(SEEN, event, key="k")
    context.execute("INSERT INTO notes VALUES (?)", (event.id,))
    if event.amount == 666:
        raise RuntimeError("poison")


LEDGER = Pipeline("ledger", TOPIC, post)
DONE = {
    "transfers": [
        {"id": 7, "debit": "a", "credit": "shop", "amount": 5, "currency": "USD", "code": "p"}
    ],
    "emitted": [{"topic": "seen", "key": "k", "value": {"id": 7, "amount": 5}}],
    "state": [{"key": "balance", "value": 5}],
    "written": [{"statement": "INSERT INTO", "table": "notes", "rows": 1}],
    "error": None,
    "traceback": "",
}


class Desk:
    """A store with what its letters have sent, and the letters."""

    def __init__(self, events: Events) -> None:
        self.store = events.pipelines()
        self.sent: list[Message] = []
        self.store.send = self.sent.extend
        self.letters = DeadLetters(self.store, actor="ada")
        self.store.database.create(["CREATE TABLE IF NOT EXISTS notes (id INTEGER NOT NULL)"])

    def left(self) -> tuple[Any, ...]:
        """All that handlers have left behind, but for what was sent."""
        read = self.store.database.execute
        tables = ("ledger_transfers", "ledger_accounts", "notes", "state", "offsets")
        return tuple(read(f"SELECT * FROM {table}").fetchall() for table in tables)


@pytest.fixture
def desk(events: Events) -> Desk:
    return Desk(events)


def events_of(letters: Sequence[DeadLetter]) -> list[int]:
    return [letter.event_id - 1_000 for letter in letters]


def test_letters_are_found_by_all_that_is_known_of_them(desk: Desk) -> None:
    fill(desk.store, [record(1), record(2, key="other")])
    fill(desk.store, [record(3, topic="ledger.retries")], error="Time_out 50%", at=10)
    fill(desk.store, [record(4)], pipeline="mail", at=20)
    find = desk.letters.list
    assert events_of(find()) == [4, 3, 2, 1]
    assert events_of(find(Selection(pipeline="ledger"))) == [3, 2, 1]
    assert events_of(find(Selection(topic="ledger.retries"))) == [3]
    assert events_of(find(Selection(key="other"))) == [2]
    assert events_of(find(Selection(error="TIME_OUT 50%"))) == [3]
    assert find(Selection(error="TIMEXOUT")) == [], "no character is a pattern"
    assert events_of(find(Selection(since_us=1 * SECOND, until_us=20 * SECOND))) == [3, 2]
    assert events_of(find(Selection(pipeline="ledger", key="k", since_us=0))) == [3, 1]
    assert [(each.pipeline, each.letters) for each in desk.letters.waiting()] == [
        ("ledger", 3),
        ("mail", 1),
    ]


def test_pages_go_on_where_the_last_one_ended_whatever_comes_in(desk: Desk) -> None:
    fill(desk.store, [record(number) for number in range(5)])
    first = desk.letters.list(limit=2)
    fill(desk.store, [record(9)])
    second = desk.letters.list(before=first[-1].id, limit=2)
    third = desk.letters.list(before=second[-1].id, limit=2)
    assert events_of([*first, *second, *third]) == [4, 3, 2, 1, 0]


def test_an_edit_is_checked_keeps_the_original_and_is_written_down(desk: Desk) -> None:
    fill(desk.store, [record(1)])
    (letter,) = desk.letters.list()
    for wrong in (b"{", b'{"id": 1}', b'{"id": 1, "amount": "7"}', b"\xff"):
        with pytest.raises(InvalidReplacement, match="Paid"):
            desk.letters.edit(letter.id, wrong, TOPIC, 50)
    assert desk.letters.show(letter.id) == letter
    for amount in (7, 8):
        desk.letters.edit(letter.id, TOPIC.encode(Paid(1, amount)), TOPIC, amount)
    edited = desk.letters.show(letter.id)
    assert edited.value == b"{"
    assert TOPIC.decode(edited.payload) == Paid(1, 8)
    assert [entry.value for entry in desk.letters.audit(letter.id)] == [
        b'{"id":1,"amount":8}',
        b'{"id":1,"amount":7}',
    ]
    desk.letters.replay(letter.id, 60)
    assert [message.value for message in desk.sent] == [edited.payload]
    with pytest.raises(DeadLetterSettled, match="replayed before"):
        desk.letters.edit(letter.id, b'{"id":1,"amount":9}', TOPIC, 70)
    assert desk.letters.show(letter.id).payload == edited.payload


def test_a_replay_goes_to_the_retries_of_its_pipeline_alone_and_once(desk: Desk) -> None:
    fill(desk.store, [record(1, value=b'{"id":1,"amount":2}')])
    (letter,) = desk.letters.list()
    desk.letters.replay(letter.id, 50)
    headers = {"tenant": "t", "dead-letter": str(letter.id)}
    assert desk.sent == [Message(1_001, "ledger.retries", "k", letter.value, headers, 50)]
    with pytest.raises(DeadLetterSettled, match="replayed before"):
        desk.letters.replay(letter.id, 60)
    with pytest.raises(NoSuchDeadLetter, match="no dead letter 99"):
        desk.letters.replay(99, 60)
    assert len(desk.sent) == 1
    assert desk.letters.show(letter.id).replayed_us == 50
    assert desk.letters.waiting() == []


def test_a_letter_that_could_not_be_sent_is_not_marked(desk: Desk) -> None:
    fill(desk.store, [record(1)])
    (letter,) = desk.letters.list()

    def fail(_: object) -> None:
        raise StoreUnavailable("full")

    desk.store.send = fail
    with pytest.raises(StoreUnavailable):
        desk.letters.replay(letter.id, 50)
    assert desk.letters.show(letter.id).state == "waiting"
    assert desk.letters.audit() == []


def test_two_people_at_once_replay_a_letter_once(events: Events) -> None:
    desks = [Desk(events) for _ in range(2)]
    fill(desks[0].store, [record(number) for number in range(20)])
    numbers = [letter.id for letter in desks[0].letters.list()]
    refused: list[int] = []

    def replay(letters: DeadLetters) -> None:
        for number in numbers:
            try:
                letters.replay(number, 50)
            except DeadLetterSettled:
                refused.append(number)

    threads = [threading.Thread(target=replay, args=(each.letters,)) for each in desks]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    sent = [message.event_id for each in desks for message in each.sent]
    assert sorted(sent) == sorted(1_000 + number for number in range(20))
    assert sorted(refused) == sorted(numbers)
    assert sorted(entry.letter for entry in desks[0].letters.audit()) == sorted(numbers)


def test_a_letter_is_discarded_with_a_reason_and_stays(desk: Desk) -> None:
    fill(desk.store, [record(1)])
    (letter,) = desk.letters.list()
    with pytest.raises(ValueError, match="reason"):
        desk.letters.discard(letter.id, "  ", 50)
    desk.letters.discard(letter.id, "a test of the till", 50)
    assert desk.letters.list(Selection(state="waiting")) == []
    assert desk.letters.show(letter.id).discarded_us == 50
    for act in (
        lambda: desk.letters.replay(letter.id, 60),
        lambda: desk.letters.discard(letter.id, "again", 60),
    ):
        with pytest.raises(DeadLetterSettled, match="discarded before"):
            act()
    (entry,) = desk.letters.audit()
    assert msgspec.structs.replace(entry, id=0) == AuditEntry(
        0, letter.id, 50, "ada", "discard", "a test of the till", None
    )
    assert desk.sent == []


def test_a_replay_of_many_tells_of_each_and_takes_up_nothing_new(desk: Desk) -> None:
    fill(desk.store, [record(number) for number in range(250)])
    fill(desk.store, [record(1)], pipeline="mail")
    (taken, *_) = desk.letters.in_order(after=0, last=1_000, limit=1)
    told: list[Outcome] = []
    slept: list[float] = []
    for outcome in act_on_each(
        in_order(desk.letters, Selection(pipeline="ledger", state="waiting")),
        lambda letter: again(desk, letter),
        Pace(10, clock=lambda: 0.0, sleep=slept.append),
    ):
        told.append(outcome)
        if outcome.letter == taken.id:
            desk.letters.discard(taken.id + 1, "meanwhile", 50)
            fill(desk.store, [record(999)])
    numbers = [outcome.letter for outcome in told]
    assert numbers == list(range(taken.id, taken.id + 250)), "the oldest first"
    assert {each.letter: each.result for each in told if each.result != "done"} == {
        taken.id + 1: "skipped",
        taken.id + 2: "failed",
    }
    assert [message.event_id for message in desk.sent] == [1_000, *range(1_003, 1_250)]
    assert slept == pytest.approx([0.1 * number for number in range(1, 250)])
    assert events_of(desk.letters.list(Selection(state="waiting", pipeline="ledger"))) == [999, 2]


def again(desk: Desk, letter: DeadLetter) -> str:
    if letter.event_id == 1_002:
        raise EventsError("its handler is not ready")
    desk.letters.replay(letter.id, 50)
    return "sent"


def test_a_replay_stops_when_the_engine_is_away(desk: Desk) -> None:
    fill(desk.store, [record(number) for number in range(3)])

    def act(letter: DeadLetter) -> str:
        if letter.event_id == 1_001:
            raise StoreUnavailable("gone")
        return ""

    told = act_on_each(
        in_order(desk.letters, Selection()), act, Pace(0, clock=lambda: 0.0, sleep=[].append)
    )
    assert next(told).result == "done"
    with pytest.raises(StoreUnavailable):
        next(told)


@given(st.lists(st.floats(0, 3)), st.floats(0.5, 10))
def test_no_more_happen_than_the_rate_allows_whenever_one_looks(
    work: list[float], rate: float
) -> None:
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    pace = Pace(rate, clock=lambda: now[0], sleep=sleep)
    happened: list[float] = []
    for seconds in work:
        pace.wait()
        happened.append(now[0])
        now[0] += seconds
    for earlier, later in itertools.pairwise(happened):
        assert later - earlier >= 1 / rate - 1e-9


def test_whatever_an_error_says_its_event_is_buried(desk: Desk) -> None:
    fill(desk.store, [record(1)], error="a\0b\ud800")
    (letter,) = desk.letters.list()
    assert letter.error == "RuntimeError: a\ufffdb?"


def test_whatever_its_key_is_an_event_is_buried_and_told_of(events: Events) -> None:
    events.log().declare([Topic("ledger.dead-letters", Paid, partitions=1)])
    store = events.pipelines()
    with store.database.transaction():
        poison = RuntimeError("poison")
        told = bury(store, "ledger", record(1, key="a\0b"), poison, tries=1, now_us=1)
        store.send([told])
    (letter,) = DeadLetters(store).list()
    assert letter.key == told.key == "a\ufffdb"


def test_a_value_is_shown_as_it_is() -> None:
    large = b'{"id": 12345678901234567890123}'
    assert msgspec.json.encode(readable(large)) == large
    assert readable(b"{poison") == "{poison"
    assert readable(b"\xff\x00") == "\\xff\x00"


def bury_payment(desk: Desk, amount: int) -> DeadLetter:
    fill(desk.store, [record(1, value=TOPIC.encode(Paid(7, amount)))])
    return desk.letters.list(limit=1)[0]


def test_a_rehearsal_says_what_the_handler_would_do_and_leaves_nothing(desk: Desk) -> None:
    letter = bury_payment(desk, 5)
    before = desk.left()
    for _ in range(2):
        found = rehearse(desk.letters, letter.id, LEDGER, 50)
        assert msgspec.json.decode(msgspec.json.encode(found)) == {"letter": letter.id, **DONE}
    assert desk.left() == before
    assert desk.sent == []
    assert desk.letters.show(letter.id) == letter
    assert desk.letters.audit() == []


def test_a_rehearsal_says_why_the_handler_would_fail_again(desk: Desk) -> None:
    letter = bury_payment(desk, 666)
    before = desk.left()
    found = rehearse(desk.letters, letter.id, LEDGER, 50)
    assert found.error == "RuntimeError: poison"
    assert 'raise RuntimeError("poison")' in found.traceback
    assert (found.transfers, found.emitted, found.state, found.written) == ([], [], [], [])
    fill(desk.store, [record(2)])
    undecodable = desk.letters.list(limit=1)[0]
    assert "DecodeError" in str(rehearse(desk.letters, undecodable.id, LEDGER, 50))
    assert desk.left() == before


def test_an_edited_letter_is_rehearsed_as_edited(desk: Desk) -> None:
    letter = bury_payment(desk, 666)
    desk.letters.edit(letter.id, TOPIC.encode(Paid(7, 5)), TOPIC, 40)
    assert str(rehearse(desk.letters, letter.id, LEDGER, 50)) == (
        "1 transfer, 1 event, 1 change of state, 1 row of its own"
    )


def test_a_letter_handed_to_its_handler_is_done_in_one_commit_with_its_mark(desk: Desk) -> None:
    letter = bury_payment(desk, 5)
    done = handle(desk.letters, letter.id, LEDGER, 50)
    assert msgspec.json.decode(msgspec.json.encode(done)) == {"letter": letter.id, **DONE}
    transfers, accounts, notes, state, _ = desk.left()
    assert [row[:6] for row in transfers] == [(7, "a", "shop", 5, "USD", "p")]
    assert sorted(accounts) == [("a", "USD", 5, 0), ("shop", "USD", 0, 5)]
    assert (notes, state) == ([(7,)], [("ledger", "balance", b"5")])
    assert [message.topic for message in desk.sent] == ["seen"]
    assert desk.letters.show(letter.id).replayed_us == 50
    (entry,) = desk.letters.audit()
    assert (entry.action, entry.actor) == ("handle", "ada")
    with pytest.raises(DeadLetterSettled, match="replayed before"):
        handle(desk.letters, letter.id, LEDGER, 60)
    assert len(desk.sent) == 1


def test_a_letter_that_its_handler_fails_on_waits_as_before(desk: Desk) -> None:
    letter = bury_payment(desk, 666)
    before = desk.left()
    with pytest.raises(HandlerFailed, match="poison"):
        handle(desk.letters, letter.id, LEDGER, 50)
    assert desk.left() == before
    assert desk.sent == []
    assert desk.letters.show(letter.id) == letter
    assert desk.letters.audit() == []


def test_a_transfer_that_was_posted_before_is_not_posted_again(desk: Desk) -> None:
    first, second = bury_payment(desk, 5), bury_payment(desk, 5)
    handle(desk.letters, first.id, LEDGER, 50)
    assert rehearse(desk.letters, second.id, LEDGER, 60).transfers == []
    other = bury_payment(desk, 6)
    assert "LedgerConflict" in str(rehearse(desk.letters, other.id, LEDGER, 60))


def test_a_running_pipeline_sees_what_a_letter_has_changed(events: Events) -> None:
    """It remembers its state, and must not believe its memory after somebody else's commit."""
    desk = Desk(events)
    store = events.pipelines()
    store.send = lambda _: None
    log = events.log()
    running = PipelineRunner(log, store, LEDGER, lambda: 1)
    feed(log, [Paid(1, 10)])
    step(running)
    fill(desk.store, [record(1, value=TOPIC.encode(Paid(7, 5)))])
    handle(desk.letters, desk.letters.list()[0].id, LEDGER, 50)
    feed(log, [Paid(2, 100)])
    step(running)
    running.close()
    assert desk.left()[3] == [("ledger", "balance", b"115")]


def feed(log: EventLog, events: Sequence[Paid]) -> None:
    log.declare([TOPIC])
    appender = log.appender("test", 1)
    messages = [Message(each.id, "paid", "k", TOPIC.encode(each), {}, 5) for each in events]
    appender.append(messages, appender.position + 1)
    appender.close()


def step(running: PipelineRunner) -> None:
    deadline = time.monotonic() + 30
    while not running.step():
        assert time.monotonic() < deadline
