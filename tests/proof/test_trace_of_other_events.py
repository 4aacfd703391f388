"""An event that `app.matches` doesn't speak of is followed as far as it went, and no further."""

from pathlib import Path

import msgspec
from test_rest import declare

from counterfoil import Application, Context, StepContext
from counterfoil.application import StateFolder
from counterfoil.events import (
    EmbeddedEvents,
    Message,
    PipelineRunner,
    SagaCoordinator,
    create_service,
)
from counterfoil.proof.stores import EmbeddedStores
from counterfoil.proof.trace import Step, trace

NOW_US = 1_000_000


class Order(msgspec.Struct, frozen=True):
    id: int
    amount: int


def with_orders() -> Application:
    """Sales are matched; orders begin a saga, and pay for themselves."""
    app = declare("market")
    orders = app.topic("orders", Order, partitions=1)
    saga = app.saga("order", orders)

    @saga.step()
    def ship(order: Order, step: StepContext) -> None:
        step.state.put("shipped", b"1")

    @app.pipeline("pay", orders)
    def pay(order: Order, context: Context) -> None:
        context.ledger.transfer(
            id=order.id, debit="ada", credit="shop", amount=5, currency="EUR", code="order"
        )

    return app


def left(events: EmbeddedEvents, app: Application, identity: int, topic: str) -> None:
    """A command's row, event and stub, all but the gateway's."""
    database = events.service("stall")
    create_service(database, app.services["stall"].schema, [], int)
    database.execute(
        "INSERT INTO outbox (event_id, topic, key, value, headers, created_us) "
        'VALUES (?, ?, \'k\', ?, \'{"tenant": "acme", "idempotency-key": "first"}\', ?)',
        (identity, topic, msgspec.json.encode(Order(identity, 5)), NOW_US),
    )
    database.close()


def stations(steps: list[Step]) -> list[str]:
    return [step.name for step in steps]


def test_an_order_is_not_said_to_be_a_sale(tmp_path: Path) -> None:
    app, events = with_orders(), EmbeddedEvents(tmp_path)
    log, store = events.log(), events.pipelines()
    log.declare(app.all_topics())
    stores = EmbeddedStores(StateFolder(tmp_path))
    left(events, app, 17, "orders")

    found = trace(app, stores, log, "17")
    assert stations(found) == ["outbox"]
    assert found[0].what == "position 1, for orders"

    value = msgspec.json.encode(Order(17, 5))
    log.appender("stall", 1).append([Message(17, "orders", "k", value, {}, NOW_US)], 1)
    assert stations(trace(app, stores, log, "17")) == ["outbox", "log"], "no coordinator ran yet"

    PipelineRunner(log, store, app.pipelines["pay"], lambda: NOW_US).step()
    coordinator = SagaCoordinator(
        log, events.pipelines(), app.sagas["order"], fencing_token=1, now_us=lambda: NOW_US
    )
    while coordinator.step():
        pass
    found = trace(app, stores, log, "first")
    assert stations(found) == ["outbox", "log", "ledger", "saga"]
    assert found[-1].where == "saga order, `counterfoil events saga 17`"
    assert found[-1].what == "completed at ship"


def test_of_several_events_of_a_command_the_one_that_is_matched_is_followed(
    tmp_path: Path,
) -> None:
    app, events = with_orders(), EmbeddedEvents(tmp_path)
    log = events.log()
    log.declare(app.all_topics())
    events.pipelines()
    stores = EmbeddedStores(StateFolder(tmp_path))
    left(events, app, 17, "orders")
    left(events, app, 18, "sales")
    found = trace(app, stores, log, "first")
    assert stations(found) == ["row", "outbox"]
    assert found[0].what == "id 18, tenant acme"
    assert stations(trace(app, stores, log, "17")) == ["outbox"]
