"""The ledger against a model of it in plain Python, and its promises one by one."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from counterfoil.events import (
    Balance,
    EmbeddedEvents,
    Events,
    HoldEnded,
    Ledger,
    LedgerConflict,
    NoSuchEntry,
    Overdrawn,
    PipelineStore,
    Record,
    Transfer,
    balance,
    balance_at,
    rebuilt_balances,
    rebuilt_held,
    statement,
    trial_balance,
)
from counterfoil.events.effects import Effects
from counterfoil.events.ledger import holds

from .conftest import MakeEvents
from .test_exactly_once import PATIENCE_SECONDS

RECORD = Record("t", 0, 7, 1, "k", b"", {}, 1)
Work = Callable[[Ledger], object]
REFUSALS = (HoldEnded, LedgerConflict, NoSuchEntry, Overdrawn, ValueError)


class Books:
    """Runs some works as the events of one commit, as a pipeline's runner does."""

    def __init__(self, store: PipelineStore) -> None:
        self.store = store
        self._effects = Effects(store, "ledger")

    def commit(self, works: Sequence[Work], now_us: int = 1) -> list[object]:
        """What each returned, or the type of what it raised."""
        try:
            return self._attempt(works, now_us, alone=False)
        except Exception:
            self._effects.forget()
            return self._attempt(works, now_us, alone=True)

    def one(self, work: Work, now_us: int = 1) -> object:
        return self.commit([work], now_us)[0]

    def _attempt(self, works: Sequence[Work], now_us: int, *, alone: bool) -> list[object]:
        results: list[object] = []

        def run(work: Work) -> None:
            results.append(work(Ledger(self._effects.book, RECORD, now_us)))

        with self.store.database.transaction():
            self._effects.begin(alone=alone)
            for number, work in enumerate(works):
                try:
                    self._effects.handle(run, work)
                except REFUSALS as error:
                    results[number:] = [type(error)]
            self._effects.flush()
        return results

    def accounts(self, table: str) -> dict[tuple[str, str], tuple[int, int]]:
        rows = self.store.database.execute(f"SELECT name, currency, debits, credits FROM {table}")
        return {(name, currency): (debits, credits) for name, currency, debits, credits in rows}

    def check(self) -> None:
        """Sums agree with what they follow from, and every currency balances."""
        database = self.store.database
        assert self.accounts("ledger_accounts") == rebuilt_balances(database)
        held = {
            account: sums for account, sums in self.accounts("ledger_held").items() if any(sums)
        }
        assert held == {
            account: sums for account, sums in rebuilt_held(database).items() if any(sums)
        }
        assert all(debits == credits for debits, credits in trial_balance(database).values())


@pytest.fixture
def books(events: Events) -> Books:
    return Books(events.pipelines())


def pay(id: int, debit: str, credit: str, amount: int, currency: str = "USD") -> Work:
    return lambda ledger: ledger.transfer(
        id=id, debit=debit, credit=credit, amount=amount, currency=currency, code="p"
    )


def hold(id: int, debit: str, credit: str, amount: int, expires_us: int | None = None) -> Work:
    return lambda ledger: ledger.hold(
        id=id,
        debit=debit,
        credit=credit,
        amount=amount,
        currency="USD",
        code="h",
        expires_us=expires_us,
    )


def leg(id: int, debit: str, credit: str, amount: int, currency: str) -> Transfer:
    return Transfer(id=id, debit=debit, credit=credit, amount=amount, currency=currency, code="x")


def guard_wallet(ledger: Ledger) -> object:
    return ledger.guard("wallet", currency="USD", side="credit")


def test_a_guarded_account_is_never_overdrawn(books: Books) -> None:
    assert books.commit([guard_wallet, guard_wallet]) == [True, False]
    assert books.one(pay(1, "bank", "wallet", 100)) is True
    outcome = books.commit([pay(2, "wallet", "shop", 70), pay(3, "wallet", "shop", 31)])
    assert outcome == [True, Overdrawn]
    assert books.commit([pay(4, "bank", "wallet", 1), pay(3, "wallet", "shop", 31)]) == [True, True]
    assert balance(books.store.database, "wallet", "USD") == Balance(101, 101)
    books.check()


def test_a_refused_overdraft_leaves_the_rest_of_its_event(books: Books) -> None:
    def decline(ledger: Ledger) -> object:
        with pytest.raises(Overdrawn):
            pay(1, "wallet", "shop", 5)(ledger)
        return ledger.transfer(
            id=2, debit="fees", credit="declined", amount=1, currency="USD", code="d"
        )

    assert books.commit([guard_wallet, decline]) == [True, True]
    assert trial_balance(books.store.database) == {"USD": (1, 1)}


def test_an_account_that_is_overdrawn_cannot_be_guarded(books: Books) -> None:
    books.one(pay(1, "wallet", "shop", 5))
    assert books.one(guard_wallet) is Overdrawn
    books.one(pay(2, "bank", "wallet", 5))
    assert books.one(guard_wallet) is True
    other = books.one(lambda ledger: ledger.guard("wallet", currency="USD", side="debit"))
    assert other is LedgerConflict


def test_what_is_held_cannot_be_spent_and_what_is_voided_can(books: Books) -> None:
    books.commit([guard_wallet, pay(1, "bank", "wallet", 100)])
    assert books.one(hold(1, "wallet", "shop", 60)) is True
    assert books.commit([hold(1, "wallet", "shop", 60), hold(1, "wallet", "shop", 61)]) == [
        False,
        LedgerConflict,
    ]
    assert books.one(pay(2, "wallet", "shop", 41)) is Overdrawn
    assert books.one(hold(2, "wallet", "shop", 41)) is Overdrawn
    assert books.commit([lambda ledger: ledger.void_hold(1)] * 2) == [True, False]
    assert books.one(pay(2, "wallet", "shop", 41)) is True
    books.check()


def test_a_hold_is_posted_once_in_part_and_the_rest_is_free(books: Books) -> None:
    books.commit([guard_wallet, pay(1, "bank", "wallet", 100), hold(1, "wallet", "shop", 60)])
    too_much = books.one(lambda ledger: ledger.post_hold(1, id=2, amount=61))
    assert too_much is ValueError

    def post(ledger: Ledger) -> object:
        return ledger.post_hold(1, id=2, amount=50)

    assert books.commit([post, post]) == [True, False]
    assert books.one(post) is False
    assert books.one(lambda ledger: ledger.post_hold(1, id=3)) is HoldEnded
    assert books.one(lambda ledger: ledger.void_hold(1)) is HoldEnded
    assert books.one(lambda ledger: ledger.void_hold(9)) is NoSuchEntry
    assert balance(books.store.database, "wallet", "USD") == Balance(50, 100)
    books.check()


def test_a_hold_ends_when_its_time_has_come(books: Books) -> None:
    books.commit([guard_wallet, pay(1, "bank", "wallet", 100)], 1)
    books.one(hold(1, "wallet", "shop", 100, expires_us=50), 2)
    assert balance(books.store.database, "wallet", "USD").held_debits == 100
    assert books.one(pay(2, "wallet", "shop", 1), 49) is Overdrawn
    assert books.one(pay(2, "wallet", "shop", 1), 50) is True
    assert books.one(lambda ledger: ledger.post_hold(1, id=3), 51) is HoldEnded
    assert balance(books.store.database, "wallet", "USD").held_debits == 0
    books.check()


def test_a_hold_that_cannot_be_posted_has_not_ended(books: Books) -> None:
    books.commit([guard_wallet, pay(1, "bank", "wallet", 100), pay(77, "x", "y", 5)])
    books.commit([hold(1, "wallet", "shop", 60), hold(2, "wallet", "shop", 10)])

    def try_to_post(ledger: Ledger) -> object:
        with pytest.raises(LedgerConflict, match="77"):
            ledger.post_hold(1, id=77)
        return True

    assert books.one(try_to_post) is True
    assert balance(books.store.database, "wallet", "USD") == Balance(0, 100, 70, 0)
    # One transfer can't end two holds, though it be of the same content.
    both = [lambda ledger, n=n: ledger.post_hold(n, id=5, amount=10) for n in (1, 2)]
    assert books.commit(both) == [True, LedgerConflict]
    assert balance(books.store.database, "wallet", "USD") == Balance(10, 100, 10, 0)
    books.check()


def test_holds_end_though_more_have_than_end_at_once(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holds, "EXPIRIES", 2)
    books.commit([guard_wallet, pay(1, "bank", "wallet", 100)])
    before = [hold(number, "x", "y", 1, expires_us=10) for number in range(1, 8)]
    books.commit([*before, hold(8, "wallet", "shop", 100, 20), hold(9, "x", "shop", 5, 20)])
    assert books.one(lambda ledger: ledger.post_hold(9, id=3), 30) is HoldEnded
    assert books.one(lambda ledger: ledger.void_hold(9), 30) is HoldEnded
    assert books.one(pay(2, "wallet", "shop", 60), 30) is True
    books.commit([hold(number, "x", "y", 1, expires_us=40) for number in range(10, 18)], 35)
    assert books.one(hold(18, "wallet", "shop", 40, expires_us=50), 35) is True
    assert books.one(hold(19, "wallet", "shop", 40), 60) is True
    books.check()


@pytest.mark.parametrize("amount", [10.5, 10.0, True, "10"])
def test_an_amount_that_is_no_whole_number_is_refused(books: Books, amount: Any) -> None:
    assert books.one(pay(1, "a", "b", amount)) is ValueError
    assert books.one(hold(1, "a", "b", amount)) is ValueError
    assert books.one(lambda ledger: ledger.transfers([leg(1, "a", "b", amount, "EUR")])) is (
        ValueError
    )
    assert books.accounts("ledger_accounts") == {}


@pytest.mark.parametrize("name", [5, None, b"a", "a\0b"])
def test_an_account_that_is_no_text_is_refused_with_what_it_is(books: Books, name: Any) -> None:
    assert books.one(pay(1, name, "b", 1)) is ValueError
    assert books.one(hold(1, "b", name, 1)) is ValueError
    assert books.one(lambda ledger: ledger.transfers([leg(1, "a", "b", 1, name)])) is ValueError
    assert books.one(lambda ledger: ledger.guard(name, currency="EUR", side="credit")) is (
        ValueError
    )
    assert books.accounts("ledger_accounts") == {}
    with pytest.raises(ValueError, match=r"are texts: .'a', 5, "):
        Transfer(id=1, debit="a", credit=5, amount=1, currency="EUR", code="x").checked()  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("number", [1.5, 2.0, True, "1", 1 << 63])
def test_what_a_database_would_round_or_refuse_is_refused_on_both(
    books: Books, number: Any
) -> None:
    def hold(ledger: Ledger) -> bool:
        return ledger.hold(
            id=1, debit="a", credit="b", amount=1, currency="X", code="c", expires_us=number
        )

    def correct(ledger: Ledger) -> bool:
        return ledger.transfer(
            id=1, debit="a", credit="b", amount=1, currency="X", code="c", corrects=number
        )

    assert books.commit([hold, correct]) == [ValueError, ValueError]


def test_an_account_is_guarded_on_a_side_that_there_is(books: Books) -> None:
    wrong: Any = "kredit"
    assert books.one(lambda ledger: ledger.guard("a", currency="X", side=wrong)) is ValueError
    assert books.one(lambda ledger: ledger.guard("a", currency="X", side="credit")) is True


def test_a_trial_balance_may_be_of_more_than_any_account_holds(books: Books) -> None:
    amount = (1 << 63) - 1

    def pay(number: int) -> Work:
        return lambda ledger: ledger.transfer(
            id=number, debit=f"a{number}", credit=f"b{number}", amount=amount, currency="X", code=""
        )

    books.commit([pay(number) for number in range(3)])
    assert trial_balance(books.store.database) == {"X": (3 * amount, 3 * amount)}


def test_linked_transfers_are_posted_all_or_none_in_their_currencies(books: Books) -> None:
    books.commit([guard_wallet, pay(1, "bank", "wallet", 100)])

    def exchange(first: int, amount: int) -> Work:
        return lambda ledger: ledger.transfers(
            [
                leg(first, "wallet", "exchange", amount, "USD"),
                leg(first + 1, "exchange", "wallet", amount - 5, "EUR"),
            ]
        )

    assert books.commit([exchange(10, 101), exchange(20, 60)]) == [Overdrawn, True]
    assert books.one(exchange(20, 60)) is False
    assert trial_balance(books.store.database) == {"EUR": (55, 55), "USD": (160, 160)}
    linked = "SELECT id, linked FROM ledger_transfers WHERE linked IS NOT NULL ORDER BY id"
    assert books.store.database.execute(linked).fetchall() == [(20, 20), (21, 20)]
    half = books.one(lambda ledger: ledger.transfers([leg(20, "wallet", "exchange", 60, "USD")]))
    assert half is False
    more = [leg(20, "wallet", "exchange", 60, "USD"), leg(22, "bank", "wallet", 1, "USD")]
    assert books.one(lambda ledger: ledger.transfers(more)) is LedgerConflict
    books.check()


def test_a_mistake_is_reversed_once_and_stays_in_the_history(books: Books) -> None:
    books.one(pay(1, "customer", "shop", 500), 10)

    def reverse(id: int) -> Work:
        return lambda ledger: ledger.reverse(1, id=id, code="mistake")

    assert books.commit([reverse(2), reverse(3)], 20) == [True, LedgerConflict]
    assert books.commit([reverse(2), reverse(4)], 30) == [False, LedgerConflict]
    assert books.one(lambda ledger: ledger.reverse(9, id=10, code="x")) is NoSuchEntry
    books.one(pay(5, "customer", "shop", 50), 40)
    database = books.store.database
    lines = statement(database, "customer", "USD", since_us=0)
    assert [(line.transfer, line.change, line.balance, line.corrects) for line in lines] == [
        (1, 500, 500, None),
        (2, -500, 0, 1),
        (5, 50, 50, None),
    ]
    later = statement(database, "customer", "USD", since_us=20)
    assert [line.balance for line in later] == [0, 50]
    assert balance_at(database, "customer", "USD", 19) == Balance(500, 0)
    assert balance_at(database, "customer", "USD", 20) == Balance(500, 500)
    books.check()


def test_an_id_that_has_reversed_a_transfer_reverses_no_other_one_like_it(books: Books) -> None:
    books.commit([pay(1, "card", "shop", 5), pay(2, "card", "shop", 5)])

    def reverse(number: int, id: int) -> Work:
        return lambda ledger: ledger.reverse(number, id=id, code="refund")

    assert books.commit([reverse(1, 9)]) == [True]
    assert books.commit([reverse(1, 9), reverse(2, 9)]) == [False, LedgerConflict]
    assert books.commit([reverse(2, 10), reverse(2, 10)]) == [True, False]
    assert balance(books.store.database, "card", "USD") == Balance(10, 10)
    refund = pay(9, "shop", "card", 5)
    assert books.one(refund) is LedgerConflict, "of no transfer at all"
    books.check()


def test_no_account_is_overdrawn_that_is_guarded_while_others_commit(events: Events) -> None:
    paying, guarding = Books(events.pipelines()), Books(events.pipelines())
    guards: list[object] = []
    thread = threading.Thread(target=lambda: guards.append(guarding.one(guard_wallet)))

    def pay_while_it_is_guarded(ledger: Ledger) -> object:
        paid = ledger.transfer(
            id=1, debit="wallet", credit="shop", amount=5, currency="USD", code="p"
        )
        if thread.ident is None:
            thread.start()
            thread.join(1)  # where one commit is written at a time it waits for this one
        return paid

    paid = paying.one(pay_while_it_is_guarded)
    thread.join(PATIENCE_SECONDS)
    assert (paid, guards) in [(Overdrawn, [True]), (True, [Overdrawn])]
    paying.check()


def test_a_handler_that_has_paid_may_guard_an_account(books: Books) -> None:
    def pay_and_guard(ledger: Ledger) -> object:
        pay(1, "bank", "wallet", 5)(ledger)
        return guard_wallet(ledger)

    assert books.commit([pay(2, "bank", "shop", 1), pay_and_guard]) == [True, True]
    assert books.one(pay(3, "wallet", "shop", 6)) is Overdrawn
    books.check()


def test_a_statement_has_pages_within_a_commit(books: Books) -> None:
    books.commit([pay(number, "a", "b", number) for number in range(1, 8)], 10)
    books.commit([pay(number, "b", "a", 1) for number in range(8, 12)], 20)
    database = books.store.database
    whole = statement(database, "a", "USD", since_us=0)
    lines, since_us, after = [], 0, None
    while page := statement(database, "a", "USD", since_us=since_us, after=after, limit=3):
        lines += page
        since_us, after = page[-1].posted_us, page[-1].transfer
    assert lines == whole
    assert [line.transfer for line in lines] == list(range(1, 12))
    assert lines[-1].balance == sum(range(1, 8)) - 4


def test_what_was_taken_back_in_part_is_not_taken_back_whole(books: Books) -> None:
    def refund(id: int, amount: int, currency: str) -> Work:
        return lambda ledger: ledger.transfer(
            id=id,
            debit="shop",
            credit="customer",
            amount=amount,
            currency=currency,
            code="refund",
            corrects=1,
        )

    def reverse(id: int) -> Work:
        return lambda ledger: ledger.reverse(1, id=id, code="mistake")

    books.commit([pay(1, "customer", "shop", 100), refund(2, 100, "EUR")])
    books.commit([refund(3, 60, "USD"), reverse(4)])
    assert books.one(reverse(4)) is LedgerConflict
    assert balance(books.store.database, "shop", "USD") == Balance(60, 100)
    books.check()


def test_what_was_entered_before_is_not_the_failure_of_a_later_event(books: Books) -> None:
    """The book finds out about a repeated transfer when a hold of another event has it written."""
    books.one(pay(1, "a", "b", 5))
    outcome = books.commit([pay(1, "a", "b", 5), pay(2, "a", "b", 6), hold(1, "a", "b", 7)])
    assert outcome == [False, True, True]
    assert trial_balance(books.store.database) == {"USD": (11, 11)}
    books.check()


@dataclass
class Model:
    """The same rules over dictionaries, without any of the ledger's code."""

    transfers: dict[int, tuple[Any, ...]] = field(default_factory=dict)
    holds: dict[int, tuple[Any, ...]] = field(default_factory=dict)
    ends: dict[int, tuple[Any, ...]] = field(default_factory=dict)
    reversed_by: dict[int, int] = field(default_factory=dict)
    now: int = 0

    def available(self) -> int:
        entries = [*self.transfers.values()]
        got = sum(entry[2] for entry in entries if entry[1] == "wallet")
        spent = sum(entry[2] for entry in entries if entry[0] == "wallet")
        held = [hold for number, hold in self.holds.items() if number not in self.ends]
        return got - spent - sum(each[2] for each in held if each[0] == "wallet")

    def expire(self) -> None:
        for number, each in self.holds.items():
            if number not in self.ends and each[3] is not None and each[3] <= self.now:
                self.ends[number] = ("expired",)

    def transfer(
        self, id: int, content: tuple[Any, ...], because: tuple[str, int] | None = None
    ) -> object:
        entry = (*content, because)
        if id in self.transfers:
            return False if self.transfers[id] == entry else LedgerConflict
        if content[0] == "wallet" and content[2] > self.available():
            self.expire()
            if content[2] > self.available():
                return Overdrawn
        self.transfers[id] = entry
        return True

    def pay(self, id: int, debit: str, credit: str, amount: int) -> object:
        return self.transfer(id, (debit, credit, amount))

    def hold(self, id: int, debit: str, credit: str, amount: int, expires: int | None) -> object:
        self.expire()
        content = (debit, credit, amount, expires)
        if id in self.holds:
            return False if self.holds[id] == content else LedgerConflict
        if debit == "wallet" and amount > self.available():
            return Overdrawn
        self.holds[id] = content
        return True

    def post(self, hold: int, id: int, amount: int) -> object:
        if hold not in self.holds:
            return NoSuchEntry
        self.expire()
        debit, credit, held, _ = self.holds[hold]
        if amount > held:
            return ValueError
        if hold in self.ends:
            return False if self.ends[hold] == ("posted", id, amount) else HoldEnded
        if id in self.transfers:
            return LedgerConflict
        self.ends[hold] = ("posted", id, amount)
        return self.transfer(id, (debit, credit, amount), ("ends", hold))

    def void(self, hold: int) -> object:
        self.expire()
        if hold not in self.holds:
            return NoSuchEntry
        if hold in self.ends:
            return False if self.ends[hold] == ("voided",) else HoldEnded
        self.ends[hold] = ("voided",)
        return True

    def reverse(self, transfer: int, id: int) -> object:
        if transfer not in self.transfers:
            return NoSuchEntry
        debit, credit, amount, _ = self.transfers[transfer]
        if self.reversed_by.get(transfer, id) != id:
            return LedgerConflict
        outcome = self.transfer(id, (credit, debit, amount), ("corrects", transfer))
        if outcome is True:
            self.reversed_by[transfer] = id
        return outcome


ACCOUNTS = st.sampled_from([("bank", "wallet"), ("wallet", "shop"), ("bank", "shop")])
IDS = st.integers(1, 6)
AMOUNTS = st.integers(0, 9)
OPERATIONS = st.one_of(
    st.tuples(st.just("pay"), IDS, ACCOUNTS, AMOUNTS),
    st.tuples(st.just("hold"), IDS, ACCOUNTS, AMOUNTS, st.none() | st.integers(1, 8)),
    st.tuples(st.just("post"), IDS, st.integers(11, 14), AMOUNTS),
    st.tuples(st.just("void"), IDS),
    st.tuples(st.just("reverse"), IDS, st.integers(21, 24)),
)
COMMITS = st.lists(st.lists(OPERATIONS, max_size=6), max_size=8)


def in_ledger(operation: tuple[Any, ...]) -> Work:
    match operation:
        case ("pay", id, (debit, credit), amount):
            return pay(id, debit, credit, amount)
        case ("hold", id, (debit, credit), amount, expires):
            return hold(id, debit, credit, amount, expires)
        case ("post", number, id, amount):
            return lambda ledger: ledger.post_hold(number, id=id, amount=amount, code="p")
        case ("void", number):
            return lambda ledger: ledger.void_hold(number)
        case (_, number, id):
            return lambda ledger: ledger.reverse(number, id=id, code="p")
    raise AssertionError(operation)


def in_model(model: Model, operation: tuple[Any, ...]) -> object:
    match operation:
        case ("pay", id, (debit, credit), amount):
            return model.pay(id, debit, credit, amount)
        case ("hold", id, (debit, credit), amount, expires):
            return model.hold(id, debit, credit, amount, expires)
        case ("post", number, id, amount):
            return model.post(number, id, amount)
        case ("void", number):
            return model.void(number)
        case (_, number, id):
            return model.reverse(number, id)
    raise AssertionError(operation)


@pytest.mark.timeout(120)
def test_the_ledger_does_what_its_model_does(make_events: MakeEvents) -> None:
    examples = 80 if isinstance(make_events(), EmbeddedEvents) else 8

    @settings(max_examples=examples, deadline=None, database=None)
    @given(commits=COMMITS)
    def check(commits: list[list[tuple[Any, ...]]]) -> None:
        books, model = Books(make_events().pipelines()), Model()
        books.one(guard_wallet)
        for operations in commits:
            model.now += 1
            outcomes = books.commit([in_ledger(each) for each in operations], model.now)
            assert outcomes == [in_model(model, each) for each in operations]
        books.check()
        rows = books.store.database.execute(
            "SELECT id, debit, credit, amount FROM ledger_transfers"
        )
        entries = {number: tuple(content) for number, *content in rows}
        assert entries == {number: entry[:3] for number, entry in model.transfers.items()}
        books.store.close()

    check()
