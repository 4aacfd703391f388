"""An order: reserve a disc, ask for the money, ship; in both styles. Run as a program, it works
until every order has come to an end, and may be killed at any moment."""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from counterfoil.events import (
    Choreography,
    ChoreographyTracer,
    Context,
    EmbeddedEvents,
    Events,
    KafkaEvents,
    Pipeline,
    PipelineRunner,
    Relay,
    Saga,
    SagaCoordinator,
    Sagas,
    StepContext,
    StepFailed,
    Topic,
)

PATIENCE_SECONDS = 60.0
STOCK = 100


class Order(msgspec.Struct, frozen=True):
    id: int
    customer: str
    amount: int
    fails: str = ""
    """The step that can't be done."""


class Charge(msgspec.Struct, frozen=True):
    order: Order
    transfer: int


class Answer(msgspec.Struct, frozen=True):
    order: Order
    approved: bool


class Reserved(msgspec.Struct, frozen=True):
    shelf: str


ORDERS = Topic("orders", Order)
CHARGES, CHARGED = Topic("charges", Charge), Topic("charged", Answer)
REFUNDS, REFUNDED = Topic("refunds", Charge), Topic("refunded", Answer)

saga = Saga("order", ORDERS)


@saga.step()
def reserve(order: Order, step: StepContext) -> Reserved:
    refuse(order, "reserve")
    move_stock(step, -1)
    return Reserved("A7")


@reserve.compensate()
def release(order: Order, step: StepContext) -> None:
    move_stock(step, +1)


@saga.ask(CHARGES, CHARGED, timeout_seconds=30)
def charge(order: Order, step: StepContext) -> Charge:
    return Charge(order, step.effect_id)


@charge.answered
def approved(order: Order, answer: Answer, step: StepContext) -> None:
    if not answer.approved:
        raise StepFailed("declined")


@charge.compensate_by_asking(REFUNDS, REFUNDED, timeout_seconds=30)
def refund(order: Order, step: StepContext) -> Charge:
    return Charge(order, step.effect_id)


@saga.step()
def ship(order: Order, step: StepContext) -> None:
    refuse(order, "ship")
    assert step.result_of(reserve).shelf == "A7"
    step.state.put(f"shipped/{order.id}", b"1")


def pay(event: Charge, context: Context) -> None:
    approved = event.order.fails != "charge"
    if approved:
        context.ledger.transfer(
            id=event.transfer,
            debit=event.order.customer,
            credit="shop",
            amount=event.order.amount,
            currency="USD",
            code="charge",
        )
    context.emit(CHARGED, Answer(event.order, approved), key=str(event.order.id))


def pay_back(event: Charge, context: Context) -> None:
    context.ledger.transfer(
        id=event.transfer,
        debit="shop",
        credit=event.order.customer,
        amount=event.order.amount,
        currency="USD",
        code="refund",
    )
    context.emit(REFUNDED, Answer(event.order, True), key=str(event.order.id))


def refuse(order: Order, step: str) -> None:
    if order.fails == step:
        raise StepFailed(f"{step} can't be done")


def move_stock(step: StepContext | Context, number: int) -> None:
    stock = int(step.state.get("stock") or STOCK)
    step.state.put("stock", str(stock + number).encode())


PLACED = Topic("placed", Order)
HELD, PAID = Topic("held", Order), Topic("paid-orders", Order)
SHIPPED = Topic("shipped", Order)
UNPAID, UNSHIPPED, RELEASED = (
    Topic("unpaid", Order),
    Topic("unshipped", Order),
    Topic("released", Order),
)
dance = Choreography("dance", PLACED, timeout_seconds=3600)
dance.tells(HELD, "reserve")
dance.tells(PAID, "charge")
dance.tells(UNPAID, "charge", "refused")
dance.tells(SHIPPED, "ship", ends="completed")
dance.tells(UNSHIPPED, "ship", "refused")
dance.tells(RELEASED, "reserve", "undone", ends="compensated")


def hold(order: Order, context: Context) -> None:
    move_stock(context, -1)
    context.emit(HELD, order, key=order.customer)


def take(order: Order, context: Context) -> None:
    failed = order.fails == "charge"
    context.emit(UNPAID if failed else PAID, order, key=order.customer)


def send(order: Order, context: Context) -> None:
    failed = order.fails == "ship"
    context.emit(UNSHIPPED if failed else SHIPPED, order, key=order.customer)


def give_back(order: Order, context: Context) -> None:
    context.emit(UNPAID, order, key=order.customer)


def let_go(order: Order, context: Context) -> None:
    context.state.put(f"released/{order.id}", b"1")
    context.emit(RELEASED, order, key=order.customer)


DANCERS = [
    Pipeline("hold", PLACED, hold),
    Pipeline("take", HELD, take),
    Pipeline("send", PAID, send),
    Pipeline("give-back", UNSHIPPED, give_back),
    Pipeline("let-go", UNPAID, let_go),
]
BANKERS = [Pipeline("pay", CHARGES, pay), Pipeline("pay-back", REFUNDS, pay_back)]
ALL = [ORDERS, CHARGES, CHARGED, REFUNDS, REFUNDED, PLACED, *dance.signs]


def workers(
    events: Events, now_us: Callable[[], int], *, token: int = 1
) -> list[Callable[[], int]]:
    """Everything that takes part, as steps for one thread."""
    log, store = events.log(), events.pipelines()
    log.declare(ALL)
    pipelines = [*BANKERS, *DANCERS]
    steps = [PipelineRunner(log, store, each, now_us).step for each in pipelines]
    steps.append(SagaCoordinator(log, store, saga, fencing_token=token, now_us=now_us).step)
    steps.append(ChoreographyTracer(log, store, dance, now_us).step)
    if not isinstance(events, EmbeddedEvents):
        appender = log.appender("_pipelines", token)
        steps.append(Relay(events.outbox("_pipelines"), appender).step)
    return steps


def ended(events: Events, number: int) -> bool:
    """Whether so many orders have ended in each style."""
    counts = Sagas(events.pipelines()).counts()
    return all(
        sum(counts.get(name, {}).get(status, 0) for status in ("completed", "compensated"))
        == number
        for name in ("order", "dance")
    )


def main() -> None:
    number, token = int(sys.argv[1]), int(sys.argv[2])
    events: Events
    if sys.argv[3] == "embedded":
        events = EmbeddedEvents(Path(sys.argv[4]))
    else:
        events = KafkaEvents(sys.argv[4], sys.argv[5], os.environ.get("PGPASSWORD"), sys.argv[6])
    steps = workers(events, lambda: time.time_ns() // 1_000, token=token)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not ended(events, number):
        if time.monotonic() > deadline:
            sys.exit(f"not ended: {Sagas(events.pipelines()).counts()}")
        for step in steps:
            step()


if __name__ == "__main__":
    main()
