"""What a key caused: any number of events, one effect; a doubled one is found however it came."""

import itertools
import json
import sqlite3
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import msgspec
import pytest
from confluent_kafka import Producer

from counterfoil import Application, Context, Counterfoils, Unit
from counterfoil.application import StateFolder
from counterfoil.cli.scaffold import write_application
from counterfoil.engines import RunningEngine
from counterfoil.events import (
    EmbeddedEvents,
    KafkaEvents,
    Pipeline,
    PipelineRunner,
    Relay,
    Reply,
    ServiceStore,
)
from counterfoil.events.service_store import Command
from counterfoil.kafka_access import KafkaAccess
from counterfoil.proof.client import Acknowledged, ClientRecord
from counterfoil.proof.reconcile import Difference, Sum, log_events, reconcile, report_days
from counterfoil.proof.stores import EmbeddedStores, RealStores
from counterfoil.testing import prove


class Sale(msgspec.Struct, frozen=True):
    id: str
    day: str
    amount: int


class Notice(msgspec.Struct, frozen=True):
    text: str


app = Application("stall")
sales, notices = app.topic("sales", Sale), app.topic("notices", Notice)
# Without a primary key, which would refuse what the checker has to find.
service = app.service("stall", schema=["CREATE TABLE sales (id TEXT, day TEXT, amount INTEGER)"])
table = app.store(sales)
SQL = "SELECT day, count(*) AS number, sum(amount)::BIGINT AS revenue FROM sales GROUP BY day"
report = app.report("daily", table, {"totals": SQL}, title="Sales", amounts=("revenue",))
counterfoils = Counterfoils(
    "stall",
    "sales",
    sales,
    "sale",
    table,
    report,
    "totals",
    "number",
    "revenue",
    currency="EUR",
    accounts=lambda event: ("cash", f"sale/{event['id']}"),
)


def sell(unit: Unit) -> Reply:
    """One row, the event of that row, and two of another topic, one of them under the row's id."""
    sale = Sale(str(unit.new_id()), unit.day, 500)
    unit.execute("INSERT INTO sales VALUES (?, ?, ?)", msgspec.structs.astuple(sale))
    unit.publish(sales, sale, key="a", event_id=int(sale.id))
    unit.publish(notices, Notice("sold"), key="a", event_id=int(sale.id))
    unit.publish(notices, Notice("thank you"), key="a")
    return Reply(201, sale.id.encode(), {})


class Stall:
    """A service's tables, and what its client and the gateway remember."""

    def __init__(self, state: StateFolder, store: ServiceStore) -> None:
        self.state = state
        self._store = store
        self._client = ClientRecord()

    def sell(self, key: str, tenant: str = "home", claim: str = "") -> None:
        """Sell once for `key`, which the store takes for `claim`."""
        headers = {"tenant": tenant, "idempotency-key": key}
        command = Command(claim or f"{tenant}/{key}", b"", headers, sell)
        number = int(self._store.submit(command).result(10).body)
        promised = Acknowledged(key, number, 500)
        self._client.acknowledged.setdefault((tenant, key), promised)
        with self.state.access_log.open("a") as log:
            log.write(json.dumps({"status": 201, "effect": str(number)}) + "\n")

    def promise(self, key: str, like: str) -> None:
        """Give the client of a key the answer of another."""
        number = self._client.acknowledged["home", like].id
        self._client.acknowledged["home", key] = Acknowledged(key, number, 500)

    def differences(self, where: str = "service") -> list[Difference]:
        """What the rows of a store differ in."""
        found = reconcile(counterfoils, EmbeddedStores(self.state), self._client)
        return [each for each in found.differences if each.where == where]

    def post(self, handler: Callable[[Sale, Context], None]) -> None:
        """Let the events go on to a ledger."""
        events = EmbeddedEvents(self.state.root)
        log, store = events.log(), events.pipelines()
        log.declare([sales, notices])
        with closing(log.appender("stall", 1)) as appender:
            Relay(events.outbox("stall"), appender).step()
        runner = PipelineRunner(log, store, Pipeline("ledger", sales, handler), lambda: 1_000_000)
        runner.step()
        runner.close()


def post_well(event: Sale, context: Context, *, to: str = "sale/", currency: str = "EUR") -> None:
    """As the sale's transfer should be, unless told otherwise."""
    context.ledger.transfer(
        id=int(event.id),
        debit="cash",
        credit=f"{to}{event.id}",
        amount=event.amount,
        currency=currency,
        code="sale",
    )


@pytest.fixture
def stall(tmp_path: Path) -> Iterator[Stall]:
    ids = itertools.count(1)
    database = EmbeddedEvents(tmp_path).service("stall")
    store = ServiceStore(
        database, service.schema, next_id=lambda: next(ids), clock_us=lambda: 1_000_000
    )
    with closing(store):
        yield Stall(StateFolder(tmp_path), store)


def test_a_command_may_publish_any_number_of_events(stall: Stall) -> None:
    stall.sell("1")
    stall.sell("1")
    stall.sell("2")
    assert stall.differences() == []


def test_a_key_that_had_two_effects_is_doubled(stall: Stall) -> None:
    stall.sell("1")
    stall.sell("1", claim="forgotten")
    stall.sell("2")
    assert stall.differences() == [Difference("doubled", "service", "1", "1 effect for a key", "2")]


def test_a_key_that_was_given_another_keys_answer_is_lost(stall: Stall) -> None:
    stall.sell("1")
    stall.promise("2", like="1")
    lost = Difference("lost", "service", "2", "an effect of its own", "another key's")
    assert stall.differences() == [lost]


def test_events_of_a_key_that_are_in_the_log_in_another_order_are_found(stall: Stall) -> None:
    for key in ("1", "2", "3"):
        stall.sell(key)
    stall.post(post_well)
    assert stall.differences("event log") == []
    with closing(sqlite3.connect(stall.state.log)) as log, log:
        ((rowid, content),) = log.execute(
            "SELECT rowid, records FROM record_batches WHERE topic = 'sales'"
        ).fetchall()
        first, *others = msgspec.msgpack.decode(content)
        moved = msgspec.msgpack.encode([*others, first])
        log.execute("UPDATE record_batches SET records = ? WHERE rowid = ?", (moved, rowid))
    assert stall.differences("event log") == [
        Difference("out of order", "event log", str(each[0]), f"after {first[0]}", "before it")
        for each in others
    ]


def test_money_that_went_elsewhere_is_changed(stall: Stall) -> None:
    stall.sell("1")
    stall.post(post_well)
    assert stall.differences("ledger") == []
    stall.sell("2")
    stall.post(partial(post_well, to="thief/"))
    (changed,) = stall.differences("ledger")
    assert (changed.what, changed.expected) == ("changed", f"cash to sale/{changed.id}")
    assert changed.found == f"cash to thief/{changed.id}"


def test_another_currency_is_changed(stall: Stall) -> None:
    stall.sell("1")
    stall.post(partial(post_well, currency="JPY"))
    assert [each.found for each in stall.differences("ledger")] == ["JPY"]


def test_a_balance_that_no_transfers_explain_is_different(stall: Stall) -> None:
    stall.sell("1")
    stall.post(post_well)
    with closing(sqlite3.connect(stall.state.log)) as file, file:
        file.execute("UPDATE ledger_accounts SET credits = credits + 1 WHERE name <> 'cash'")
        file.execute("DELETE FROM ledger_accounts WHERE name = 'cash'")
    found = {each.id.split("/")[0]: each.found for each in stall.differences("ledger")}
    assert found == {"cash EUR": "debits 0, credits 0", "sale": "debits 0, credits 501"}


def test_a_day_that_is_there_twice_counts_twice(stall: Stall) -> None:
    folder = stall.state.reports / "daily"
    folder.mkdir(parents=True)
    (folder / "totals.csv").write_text("day,number,revenue\n" + "2026-01-01,1,5.00\n" * 2)
    assert report_days(counterfoils, stall.state) == {"2026-01-01": Sum(2, 1_000)}


def test_what_others_wrote_to_the_topic_has_appeared(
    stall: Stall, engine: Callable[[str], RunningEngine]
) -> None:
    kafka = KafkaAccess(engine("kafka").address)
    producer = Producer(kafka.librdkafka())
    name = f"stall-{uuid.uuid4().hex}"
    KafkaEvents(kafka, "", None, name).log().declare([sales])
    foreign: list[tuple[bytes, dict[str, str | bytes | None]]] = [
        (b"{", {}),
        (b"[]", {"counterfoil-event-id": b"x"}),
        (b"{}", {}),
    ]
    for value, headers in foreign:
        producer.produce(f"{name}.sales", value, headers=headers)
    assert producer.flush(30) == 0
    stores = RealStores(stall.state, name, kafka, "", None)
    assert log_events(counterfoils, stores) == [(0, 0)] * 3


def test_tenants_may_use_the_same_key(stall: Stall) -> None:
    stall.sell("1", "aurora")
    stall.sell("1", "borealis")
    assert stall.differences() == []


def test_a_row_that_is_there_twice_is_doubled(stall: Stall) -> None:
    stall.sell("1")
    stall.sell("2")
    with closing(sqlite3.connect(stall.state.service("stall"))) as database, database:
        database.execute("INSERT INTO sales SELECT * FROM sales WHERE id = '1'")
    assert stall.differences() == [Difference("doubled", "service", "1", "1 row", "2")]


def test_an_application_whose_command_publishes_two_events_is_proved(tmp_path: Path) -> None:
    folder = tmp_path / "chatty"
    write_application(folder)
    file = folder / "chatty.py"
    code = file.read_text()
    publish = "    unit.publish(transfers, transfer, key=request.payer, event_id=number)\n"
    assert publish in code
    code = code.replace(
        publish, publish + "    unit.publish(copies, transfer, key=request.payee)\n"
    )
    declared = 'transfers = app.topic("transfers", Transfer)\n'
    assert declared in code
    file.write_text(code.replace(declared, declared + 'copies = app.topic("copies", Transfer)\n'))
    verdict = prove(folder, tmp_path / "state", requests=100, faults=())
    assert verdict.differences == []
    assert verdict.acknowledged == verdict.ledger == verdict.report == 100
