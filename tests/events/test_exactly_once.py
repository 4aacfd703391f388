"""Outbox, relay, pipeline and ledger on real files: once, in order, or not at all."""

import itertools
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterfoil.events import (
    Command,
    Context,
    DeadLetters,
    EmbeddedLog,
    Fenced,
    KeyReused,
    Message,
    NoSuchDeadLetter,
    OutboxReader,
    Pipeline,
    PipelineRunner,
    Relay,
    Reply,
    ServiceStore,
    StoreUnavailable,
    Topic,
    Unit,
    rebuilt_balances,
    trial_balance,
)


class Paid(msgspec.Struct, frozen=True):
    id: int
    account: str
    amount: int


TOPIC = Topic("paid", Paid)


def message(number: int, amount: int = 100, value: bytes | None = None) -> Message:
    event = TOPIC.encode(Paid(number, f"a{number % 3}", amount)) if value is None else value
    return Message(number, "paid", f"a{number % 3}", event, {}, 1)


def make_log(folder: Path) -> EmbeddedLog:
    log = EmbeddedLog(folder / "events.db")
    log.declare([TOPIC])
    return log


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


def make_store(folder: Path, *extra: str) -> ServiceStore:
    ids = itertools.count(1)
    schema = ["CREATE TABLE IF NOT EXISTS paid (id INTEGER PRIMARY KEY, amount INTEGER)", *extra]
    return ServiceStore(
        folder / "service.db", schema, next_id=lambda: next(ids), clock_us=lambda: 1
    )


def pay(amount: int, key: str = "k", digest: bytes = b"h") -> Command:
    def handle(unit: Unit) -> Reply:
        number = unit.new_id()
        unit.execute("INSERT INTO paid VALUES (?, ?)", (number, amount))
        unit.publish(TOPIC, Paid(number, "a", amount), key="a", event_id=number)
        return Reply(201, str(number).encode(), {})

    return Command(key, digest, {}, handle)


def test_a_repeated_key_gets_the_same_answer_and_has_one_effect(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    first = store.submit(pay(5)).result()
    assert store.submit(pay(5)).result().body == first.body
    store.close()
    assert len(OutboxReader(tmp_path / "service.db").read_after(0, 10)) == 1


def test_a_key_with_another_request_is_refused(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    store.submit(pay(5)).result()
    with pytest.raises(KeyReused):
        store.submit(pay(6, digest=b"other")).result()


def test_a_full_disk_refuses_and_keeps_what_was_acknowledged(tmp_path: Path) -> None:
    store = make_store(tmp_path, "PRAGMA max_page_count = 40")
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
    assert len(OutboxReader(tmp_path / "service.db").read_after(0, 9_999)) == acknowledged


def test_a_relay_whose_term_ended_is_fenced(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    log = make_log(tmp_path)

    def relay(token: int) -> Relay:
        reader = OutboxReader(tmp_path / "service.db")
        return Relay(reader, log, source="s", fencing_token=token)

    old = relay(1)
    store.submit(pay(5)).result()
    new = relay(2)
    assert new.step() == 1
    with pytest.raises(Fenced):
        old.step()
    assert sum(len(log.read("paid", number, 0, 99)) for number in range(4)) == 1


@given(amounts=st.lists(st.integers(0, 10_000), max_size=40))
def test_the_ledger_balances_and_agrees_with_its_rebuild(
    tmp_path_factory: pytest.TempPathFactory, amounts: list[int]
) -> None:
    log = make_log(tmp_path_factory.mktemp("ledger"))
    log.publish(message(number, amount) for number, amount in enumerate(amounts))
    runner = PipelineRunner(log, Pipeline("ledger", TOPIC, post), lambda: 1)
    while runner.step():
        pass
    good = [amount for amount in amounts if amount != 666]
    debits, credits = trial_balance(log.connection).get("USD", (0, 0))
    assert debits == credits == sum(good)
    stored = {
        (name, currency): (debits, credits)
        for name, currency, debits, credits in log.connection.execute(
            "SELECT * FROM ledger_accounts"
        )
    }
    assert stored == rebuilt_balances(log.connection)


def test_a_poison_message_is_buried_once_and_replayed_once(tmp_path: Path) -> None:
    log = make_log(tmp_path)
    log.publish([message(1), message(2, 666), message(3, value=b"{"), message(4)])
    runner = PipelineRunner(log, Pipeline("ledger", TOPIC, post), lambda: 1)
    assert runner.step() == 4
    letters = DeadLetters(log)
    assert {letter.event_id: letter.tries for letter in letters.list()} == {2: 3, 3: 1}
    assert trial_balance(log.connection) == {"USD": (200, 200)}
    poison = next(letter for letter in letters.list() if letter.event_id == 2)
    letters.replay(poison.id, 2)
    with pytest.raises(NoSuchDeadLetter, match="replayed before"):
        letters.replay(poison.id, 3)
    mended = PipelineRunner(log, Pipeline("ledger", TOPIC, lambda event, context: None), lambda: 1)
    assert mended.step() == 1
    assert mended.step() == 0
