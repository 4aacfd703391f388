"""Outbox, relay, pipeline and ledger on real stores: once, in order, or not at all."""

import itertools
import threading
import time
from collections.abc import Iterable

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from counterfoil.events import (
    Command,
    Context,
    DeadLetters,
    EmbeddedEvents,
    EventLog,
    Events,
    Fenced,
    KeyReused,
    LedgerConflict,
    Message,
    NoSuchDeadLetter,
    Pipeline,
    PipelineRunner,
    Record,
    Relay,
    Reply,
    ServiceStore,
    StoreUnavailable,
    Topic,
    Unit,
    lag,
    outbox,
    rebuilt_balances,
    trial_balance,
)

PATIENCE_SECONDS = 30.0


class Paid(msgspec.Struct, frozen=True):
    id: int
    account: str
    amount: int


TOPIC = Topic("paid", Paid)
SEEN = Topic("seen", Paid)


def message(number: int, amount: int = 100, value: bytes | None = None) -> Message:
    event = TOPIC.encode(Paid(number, f"a{number % 3}", amount)) if value is None else value
    return Message(number, "paid", f"a{number % 3}", event, {}, 1_700_000_000_000_000)


def make_log(events: Events) -> EventLog:
    log = events.log()
    log.declare([TOPIC, SEEN])
    return log


def append(log: EventLog, messages: Iterable[Message]) -> None:
    appender = log.appender("test", 1)
    messages = list(messages)
    if messages:
        appender.append(messages, appender.position + 1)
    appender.close()


def post(event: Paid, context: Context) -> None:
    if event.amount == 666:
        raise RuntimeError("poison")
    context.ledger.transfer(
        id=event.id,
        debit=event.account,
        credit="shop",
        amount=event.amount,
        currency="USD",
        code="p",
    )


def runner(events: Events, pipeline: Pipeline[Paid]) -> PipelineRunner:
    return PipelineRunner(make_log(events), events.pipelines(), pipeline, lambda: 1)


def handle(running: PipelineRunner, number: int) -> None:
    """Step until `number` events were handled, and see that no more come."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    handled = 0
    while handled < number:
        handled += running.step()
        assert time.monotonic() < deadline, f"{handled} of {number}"
    assert handled == number
    assert running.step() == 0


def records(events: Events, topic: Topic[Paid], number: int) -> list[Record]:
    """The records of a topic, once there are `number`; more fail."""
    reader = make_log(events).reader([topic], lambda _: {})
    found: list[Record] = []
    deadline = time.monotonic() + PATIENCE_SECONDS
    while len(found) < number:
        found += [record for batch in reader.fetch(100) for record in batch.records]
        assert time.monotonic() < deadline, f"{len(found)} of {number}"
    found += [record for batch in reader.fetch(100) for record in batch.records]
    reader.close()
    assert len(found) == number
    return found


def make_store(events: Events, *extra: str) -> ServiceStore:
    ids = itertools.count(1)
    schema = ["CREATE TABLE IF NOT EXISTS paid (id INTEGER PRIMARY KEY, amount INTEGER)", *extra]
    return ServiceStore(
        events.service("bank"), schema, next_id=lambda: next(ids), clock_us=lambda: 1
    )


def pay(amount: int, key: str = "k", digest: bytes = b"h") -> Command:
    def handle(unit: Unit) -> Reply:
        number = unit.new_id()
        unit.execute("INSERT INTO paid VALUES (?, ?)", (number, amount))
        unit.publish(TOPIC, Paid(number, "a", amount), key="a", event_id=number)
        return Reply(201, str(number).encode(), {})

    return Command(key, digest, {}, handle)


def test_a_repeated_key_gets_the_same_answer_and_has_one_effect(events: Events) -> None:
    store = make_store(events)
    first = store.submit(pay(5)).result()
    assert store.submit(pay(5)).result().body == first.body
    store.close()
    assert len(events.outbox("bank").read_after(0, 10)) == 1


def test_a_key_that_two_instances_get_at_once_has_one_effect(events: Events) -> None:
    ids = itertools.count(1)
    stores = [
        ServiceStore(
            events.service("bank"),
            ["CREATE TABLE IF NOT EXISTS paid (id INTEGER PRIMARY KEY, amount INTEGER)"],
            next_id=lambda: next(ids),
            clock_us=lambda: 1,
        )
        for _ in range(2)
    ]
    for number in range(30):
        answers = [store.submit(pay(5, key=f"k{number}")) for store in stores]
        assert len({answer.result(PATIENCE_SECONDS).body for answer in answers}) == 1
    for store in stores:
        store.close()
    assert len(events.outbox("bank").read_after(0, 100)) == 30


def test_a_key_with_another_request_is_refused(events: Events) -> None:
    store = make_store(events)
    store.submit(pay(5)).result()
    with pytest.raises(KeyReused):
        store.submit(pay(6, digest=b"other")).result()
    store.close()


def test_a_command_that_fails_leaves_nothing_and_spoils_nobody(events: Events) -> None:
    store = make_store(events)

    def wrong(unit: Unit) -> Reply:
        pay(1).handle(unit)
        unit.execute("SELECT no_such_column FROM paid")
        return Reply(201, b"", {})

    good = [store.submit(pay(5, key="a")), store.submit(pay(5, key="b"))]
    bad = store.submit(Command("c", b"h", {}, wrong))
    good.append(store.submit(pay(5, key="d")))
    with pytest.raises(Exception, match="no_such_column"):
        bad.result(PATIENCE_SECONDS)
    bodies = {answer.result(PATIENCE_SECONDS).body for answer in good}
    store.close()
    assert len(bodies) == len(events.outbox("bank").read_after(0, 10)) == 3


def test_a_full_disk_refuses_and_keeps_what_was_acknowledged(embedded: EmbeddedEvents) -> None:
    store = make_store(embedded, "PRAGMA max_page_count = 40")
    acknowledged, refused = 0, 0
    for number in range(3_000):
        try:
            store.submit(pay(1, key=f"key-{number}")).result()
            acknowledged += 1
        except StoreUnavailable:
            refused += 1
            break
    store.close()
    assert refused and acknowledged
    assert len(embedded.outbox("bank").read_after(0, 9_999)) == acknowledged


def test_two_writers_never_hide_a_row_from_the_relay(events: Events) -> None:
    """A position is passed only when every smaller one is there, whoever commits first."""
    stores = [make_store(events) for _ in range(2)]
    ids = itertools.count(1)
    for store in stores:
        store._next_id = lambda: next(ids)
    reader, seen, done = events.outbox("bank"), [0], threading.Event()

    def read() -> None:
        while not done.is_set() or reader.read_after(seen[-1], 1):
            seen.extend(position for position, _ in reader.read_after(seen[-1], 3))

    reading = threading.Thread(target=read)
    reading.start()
    answers = [
        store.submit(pay(1, key=f"{name}-{number}"))
        for number in range(150)
        for name, store in enumerate(stores)
    ]
    for answer in answers:
        answer.result(PATIENCE_SECONDS)
    done.set()
    reading.join()
    assert len(seen) - 1 == 300
    for store in stores:
        store.close()


@pytest.mark.secured
def test_a_relay_whose_term_ended_is_fenced(events: Events) -> None:
    store, log = make_store(events), make_log(events)
    first, second = events.outbox("bank"), events.outbox("bank")
    old = Relay(first, log.appender("bank", 1))
    store.submit(pay(5)).result()
    new = Relay(second, log.appender("bank", 2))
    assert new.step() == 1
    with pytest.raises(Fenced):
        old.step()
    store.submit(pay(6, key="later")).result()
    assert new.step() == 1
    store.close()
    assert [record.event_id for record in records(events, TOPIC, 2)] == [1, 2]


def test_a_new_term_goes_on_where_the_last_one_ended(events: Events) -> None:
    store, log = make_store(events), make_log(events)
    for term in range(1, 4):
        store.submit(pay(5, key=str(term))).result()
        appender = log.appender("bank", term)
        assert Relay(events.outbox("bank"), appender).step() == 1
        appender.close()
    store.close()
    assert [record.event_id for record in records(events, TOPIC, 3)] == [1, 2, 3]


def balances_agree(events: Events, amounts: list[int]) -> None:
    append(make_log(events), (message(number, amount) for number, amount in enumerate(amounts)))
    running = runner(events, Pipeline("ledger", TOPIC, post))
    handle(running, len(amounts))
    running.close()
    good = [amount for amount in amounts if amount != 666]
    database = events.pipelines().database
    debits, credits = trial_balance(database).get("USD", (0, 0))
    assert debits == credits == sum(good)
    stored = {
        (name, currency): (debits, credits)
        for name, currency, debits, credits in database.execute("SELECT * FROM ledger_accounts")
    }
    assert stored == rebuilt_balances(database)


@settings(deadline=None)
@given(amounts=st.lists(st.integers(0, 10_000), max_size=40))
def test_the_ledger_balances_and_agrees_with_its_rebuild(
    tmp_path_factory: pytest.TempPathFactory, amounts: list[int]
) -> None:
    balances_agree(EmbeddedEvents(tmp_path_factory.mktemp("ledger")), amounts)


def test_the_ledger_balances_with_free_poisonous_and_large_amounts(events: Events) -> None:
    balances_agree(events, [0, 5, 666, 2**40, 666, 0, 7, 10**15] * 5)


def test_a_transfer_is_posted_once_and_its_id_belongs_to_it(events: Events) -> None:
    log = make_log(events)
    append(log, [message(7, 100), message(7, 100), message(7, 200)])
    running = runner(events, Pipeline("ledger", TOPIC, post))
    handle(running, 3)
    store = events.pipelines()
    assert trial_balance(store.database) == {"USD": (100, 100)}
    (letter,) = DeadLetters(store).list()
    assert letter.error.startswith(LedgerConflict.__name__)


def test_a_twin_that_was_slower_handles_nothing_twice(events: Events) -> None:
    log = make_log(events)
    append(log, [message(number) for number in range(10)])
    pipeline = Pipeline("ledger", TOPIC, post)
    slow = runner(events, pipeline)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (batches := slow._reader.fetch(100)):
        assert time.monotonic() < deadline
    twin = events.pipelines()
    with twin.database.transaction():
        twin.advance("ledger", batches)
    with pytest.raises(Fenced):
        slow._commit(batches, 1)
    assert trial_balance(events.pipelines().database) == {}


@pytest.mark.secured
def test_what_a_handler_emits_leaves_with_its_commit(events: Events) -> None:
    append(make_log(events), [message(number) for number in range(5)])

    def pass_on(event: Paid, context: Context) -> None:
        context.emit(SEEN, event, key=event.account)
        if event.id == 3:
            raise RuntimeError("undone")

    handle(runner(events, Pipeline("forward", TOPIC, pass_on)), 5)
    relay_all(events)
    assert sorted(record.event_id for record in records(events, SEEN, 4)) == [0, 1, 2, 4]


def test_large_events_leave_an_outbox_a_few_at_a_time(
    events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = events.service("bank")
    database.create([outbox.SCHEMA])
    with database.transaction():
        outbox.insert(database, [message(number) for number in range(5)])
        outbox.insert(database, [message(5, value=b"x" * 1_000), message(6)])
    size = len(message(0).value)
    monkeypatch.setattr(outbox, "READ_BYTES", 2 * size + 1)
    reader = outbox.TableOutbox(database)
    portions: list[list[int]] = []
    position = 0
    while found := reader.read_after(position, 4):
        portions.append([each.event_id for _, each in found])
        position = found[-1][0]
    assert portions == [[0, 1, 2], [3, 4, 5], [6]]


def relay_all(events: Events) -> None:
    """Move what pipelines have sent into the log, where that is a relay's work."""
    if isinstance(events, EmbeddedEvents):
        return
    log = make_log(events)
    log.declare([topic for name in ("forward", "ledger") for topic in own_topics(name)])
    appender = log.appender("_pipelines", 1)
    while Relay(events.outbox("_pipelines"), appender).step():
        continue
    appender.close()


def own_topics(pipeline: str) -> list[Topic[Paid]]:
    return Pipeline(pipeline, TOPIC, post).topics()[1:]


def test_a_poison_message_is_buried_once_and_replayed_once(events: Events) -> None:
    log = make_log(events)
    append(log, [message(1), message(2, 666), message(3, value=b"{"), message(4)])
    running = runner(events, Pipeline("ledger", TOPIC, post))
    handle(running, 4)
    running.close()
    letters = DeadLetters(events.pipelines())
    assert {letter.event_id: letter.tries for letter in letters.list()} == {2: 3, 3: 1}
    assert trial_balance(events.pipelines().database) == {"USD": (200, 200)}
    poison = next(letter for letter in letters.list() if letter.event_id == 2)
    letters.replay(poison.id, 2)
    with pytest.raises(NoSuchDeadLetter, match="replayed before"):
        letters.replay(poison.id, 3)
    relay_all(events)
    retries, dead = own_topics("ledger")
    assert [record.event_id for record in records(events, retries, 1)] == [2]
    assert sorted(record.event_id for record in records(events, dead, 2)) == [2, 3]
    mended = Pipeline("ledger", TOPIC, lambda event, context: None)
    handle(runner(events, mended), 1)


def test_lag_is_what_is_left_to_handle(events: Events) -> None:
    log = make_log(events)
    append(log, [message(number) for number in range(9)])
    running = runner(events, Pipeline("ledger", TOPIC, post))
    handle(running, 9)
    running.close()
    append(log, [message(number) for number in range(9, 12)])
    found = [each for each in lag(log, events.pipelines()) if each.topic == "paid"]
    assert sum(each.lag for each in found) >= 3
    assert all(each.end - each.committed == each.lag >= 0 for each in found)


@pytest.mark.secured
def test_a_record_is_found_by_its_event(events: Events) -> None:
    log = make_log(events)
    append(log, [message(number) for number in range(9)])
    deadline = time.monotonic() + PATIENCE_SECONDS
    # Kafka shows what is committed a moment after the commit.
    while (found := log.find(TOPIC, 5, "a2", message(5).timestamp_us)) is None:
        assert time.monotonic() < deadline
    assert TOPIC.decode(found.value) == Paid(5, "a2", 100)
    assert log.find(TOPIC, 99, "a0", message(99).timestamp_us) is None
