"""Positions tell whether something is under way, on both engines: one step after the other."""

import itertools
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import msgspec
import pytest

from counterfoil import Application, Context, Counterfoils, Unit
from counterfoil.application import StateFolder
from counterfoil.engines import RunningEngine
from counterfoil.events import EmbeddedEvents, Events, KafkaEvents, PipelineRunner, Relay, Reply
from counterfoil.events.service_store import Command, ServiceStore
from counterfoil.kafka_access import KafkaAccess
from counterfoil.proof.rest import Standing, at_rest, positions_tell
from counterfoil.proof.stores import EmbeddedStores, RealStores, StoreAway, Stores
from counterfoil.reports import Embedded, Lake, ReportRunner
from counterfoil.supervisor.storing import Storing

SCHEMA = "CREATE TABLE IF NOT EXISTS sales (id TEXT, day TEXT, amount INTEGER)"
SQL = "SELECT day, count(*) AS number, sum(amount)::BIGINT AS revenue FROM sales GROUP BY day"


class Sale(msgspec.Struct, frozen=True):
    id: str
    day: str
    amount: int


def declare(name: str) -> Application:
    app = Application(name)
    sales = app.topic("sales", Sale, partitions=2)
    app.service("stall", schema=[SCHEMA])

    @app.pipeline("ledger", sales)
    def post(event: Sale, context: Context) -> None:
        context.ledger.transfer(
            id=int(event.id),
            debit="payer",
            credit="payee",
            amount=event.amount,
            currency="EUR",
            code="sale",
        )

    table = app.store(sales)
    report = app.report("daily", table, {"totals": SQL}, title="Sales", amounts=("revenue",))
    app.matches(
        Counterfoils("stall", "sales", sales, "sale", table, report, "totals", "number", "revenue")
    )
    return app


def now_us() -> int:
    return 1_000_000


class Way:
    """The steps of an application's way, each taken when a test says so."""

    def __init__(self, app: Application, events: Events, stores: Stores, opened: ExitStack) -> None:
        assert app.counterfoils is not None
        self.app, self.stores = app, stores
        self._counterfoils = app.counterfoils
        log = events.log()
        log.declare(app.all_topics())
        ids = itertools.count(1)
        service = app.services["stall"]
        self._service = ServiceStore(
            events.service("stall"),
            service.schema,
            next_id=lambda: next(ids),
            clock_us=now_us,
        )
        opened.enter_context(closing(self._service))
        outbox = opened.enter_context(closing(events.outbox("stall")))
        appender = opened.enter_context(closing(log.appender("stall", 1)))
        relay = Relay(outbox, appender)
        self.store = store = opened.enter_context(closing(events.pipelines()))
        pipeline = PipelineRunner(log, store, app.pipelines["ledger"], now_us)
        opened.enter_context(closing(pipeline))
        lake = Lake(stores.state.lake)
        self._storing = lambda: Storing(
            app,
            "sales",
            lake=lake,
            engine=Embedded(),
            event_log=log,
            store=store,
            now_us=now_us,
        )
        report = app.reports["daily"]
        reports = ReportRunner(lake, report, stores.state.reports / "daily", Embedded())
        self._steps = {
            "relay": relay.step,
            "pipeline": pipeline.step,
            "lake": self._storing().step,
            "report": lambda: len(reports.run(now_us()).days),
        }

    def sell(self, key: str) -> None:
        def sell(unit: Unit) -> Reply:
            sale = Sale(str(unit.new_id()), "2026-03-01", 500)
            unit.execute("INSERT INTO sales VALUES (?, ?, ?)", msgspec.structs.astuple(sale))
            topic = self._counterfoils.topic
            unit.publish(topic, sale, key=key, event_id=int(sale.id))
            return Reply(201, sale.id.encode(), {})

        headers = {"tenant": "home", "idempotency-key": key}
        self._service.submit(Command(key, b"", headers, sell)).result(10)

    def take(self, step: str) -> None:
        """Take a step, as soon as it finds what the one before has left."""
        while self._steps[step]() == 0:
            pass

    def restart_lake(self) -> None:
        """Another process of the lake, which finds nothing to do."""
        assert self._storing().step() == 0

    def rest(self) -> Standing | None:
        return at_rest(self.app, self._counterfoils, self.stores)


@pytest.fixture(params=["embedded", "kafka"])
def way(
    request: pytest.FixtureRequest, tmp_path: Path, engine: Callable[[str], RunningEngine]
) -> Iterator[Way]:
    app, state = declare(f"stall-{uuid.uuid4().hex}"), StateFolder(tmp_path)
    events: Events = EmbeddedEvents(tmp_path)
    stores: Stores = EmbeddedStores(state)
    if request.param == "kafka":
        kafka, postgres = KafkaAccess(engine("kafka").address), engine("postgres")
        events = KafkaEvents(kafka, postgres.address, postgres.secret, application=app.name)
        stores = RealStores(state, app.name, kafka, postgres.address, postgres.secret)
    with ExitStack() as opened:
        yield Way(app, events, stores, opened)


def test_a_way_is_at_rest_once_every_step_has_come_to_the_end_of_the_one_before(way: Way) -> None:
    assert way.rest() is not None, "nothing was sold"
    way.sell("a")
    for step in ("relay", "pipeline", "lake", "report"):
        assert way.rest() is None, f"{step} has still to come"
        way.take(step)
    first = way.rest()
    assert first is not None
    assert first == way.rest()
    way.sell("b")
    assert way.rest() is None
    for step in ("relay", "lake", "report"):
        way.take(step)
    assert way.rest() is None, "the pipeline has still to come"
    way.take("pipeline")
    second = way.rest()
    assert second is not None
    assert second != first


def test_a_lake_that_died_before_it_noted_its_place_is_not_at_rest_until_it_is_back(
    way: Way,
) -> None:
    way.sell("a")
    for step in ("relay", "pipeline", "lake", "report"):
        way.take(step)
    assert way.rest() is not None
    forget = "DELETE FROM offsets WHERE consumer = 'lake'"
    way.store.database.execute(forget)
    assert way.rest() is None
    way.restart_lake()
    assert way.rest() is not None


def test_a_store_that_is_away_is_said_to_be(tmp_path: Path) -> None:
    nowhere = KafkaAccess("127.0.0.1:1")
    stores = RealStores(StateFolder(tmp_path), "shop", nowhere, "postgresql://127.0.0.1:1/x", None)
    with pytest.raises(StoreAway, match="PostgreSQL"):
        stores.service("payments", "SELECT 1")


def test_work_that_waits_outside_of_topics_is_not_told_by_positions(tmp_path: Path) -> None:
    stores = EmbeddedStores(StateFolder(tmp_path))
    app = declare("stall")
    assert positions_tell(app, stores)

    @app.tasks("letters", Sale)
    def letters(task: Sale) -> None:
        pass

    assert not positions_tell(app, stores)
