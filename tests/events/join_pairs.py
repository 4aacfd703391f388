"""A join and what its tests need; run as a program, it may be killed at any moment."""

import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from counterfoil.events import (
    Context,
    EmbeddedEvents,
    Events,
    EventTime,
    Joined,
    KafkaEvents,
    Message,
    Pipeline,
    PipelineRunner,
    Topic,
)
from counterfoil.events.joins import Kind

from .window_sums import PATIENCE_SECONDS, SECOND, Clock, note, told

PAIRS = "pairs"
WITHIN = 60
DISORDER = 20


class Order(msgspec.Struct, frozen=True):
    """Something was ordered; what belongs together has one account."""

    id: int
    account: str
    at: int
    """In seconds."""


class Payment(msgspec.Struct, frozen=True):
    """Something was paid."""

    id: int
    account: str
    at: int


Event = Order | Payment
ORDERS = Topic("orders", Order, partitions=2)
PAYMENTS = Topic("payments", Payment, partitions=2)
ENDS = [kind(0, end, 100_000) for end in "abcdefg" for kind in (Order, Payment)]
"""What comes last in each partition, and lets everything before it be over."""


def time_of(event: Event) -> int:
    return event.at * SECOND


EVENT_TIME: EventTime[Event] = EventTime(time_of, disorder_seconds=DISORDER, idle_seconds=None)


def name_of(event: Event | None) -> str:
    return "-" if event is None else str(event.id)


def tell(order: Order | None, payment: Payment | None, context: Context) -> None:
    """Leaves a line for each time that a pair is told, so that none is told twice unseen."""
    if any(each is not None and each.id == 0 for each in (order, payment)):
        return  # it is there to move the watermark
    note(context, f"{name_of(order)} {name_of(payment)}", "once")


def joined(kind: Kind = "inner", **more: Any) -> Pipeline[Any]:
    settings: dict[str, Any] = {"within_seconds": WITHIN, "event_time": EVENT_TIME, **more}
    handler, left = settings.pop("handler", tell), settings.pop("left", ORDERS)
    right = settings.pop("right", PAYMENTS)
    return Joined(PAIRS, left, right, handler, kind=kind, **settings).pipeline()


def messages(events: Iterable[Event], first: int = 1) -> list[Message]:
    """Each on its topic, by its account."""
    found: list[Message] = []
    for number, each in enumerate(events, first):
        topic: Topic[Any] = ORDERS if isinstance(each, Order) else PAYMENTS
        found.append(Message(number, topic.name, each.account, topic.encode(each), {}, number))
    return found


def expected(events: Iterable[Event], kind: Kind) -> dict[str, str]:
    """What a join of the whole is, without state, timers or a watermark."""
    orders = [each for each in events if isinstance(each, Order)]
    payments = [each for each in events if isinstance(each, Payment)]
    pairs = [
        (order, payment)
        for order in orders
        for payment in payments
        if order.account == payment.account and abs(order.at - payment.at) <= WITHIN
    ]
    found = {f"{order.id} {payment.id}" for order, payment in pairs}
    if kind != "inner":
        found |= {f"{each.id} -" for each in orders if each not in [pair[0] for pair in pairs]}
    if kind == "outer":
        found |= {f"- {each.id}" for each in payments if each not in [pair[1] for pair in pairs]}
    return dict.fromkeys(found, "once")


def main() -> None:
    """Run the join over what is in a log, until so much was told."""
    number, *where = int(sys.argv[1]), *sys.argv[2:]
    if len(where) == 1:
        events: Events = EmbeddedEvents(Path(where[0]))
    else:
        kafka, postgres, application = where
        events = KafkaEvents(kafka, postgres, None, application)
    store = events.pipelines()
    runner = PipelineRunner(events.log(), events.pipelines(), joined("outer"), Clock().now_us)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while len(told(store, PAIRS)) < number:
        runner.step()
        if time.monotonic() > deadline:
            sys.exit("too slow")


if __name__ == "__main__":
    main()
