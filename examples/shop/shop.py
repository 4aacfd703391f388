"""A shop that sells discs: every purchase is one payment, from request to report."""

import gzip
import random
from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from counterfoil import Application, Context, Counterfoils, Request, Unit

PURCHASES = Path(__file__).parent / "data" / "cdnow_master.txt.gz"
TENANTS = (("aurora", "gold"), ("borealis", "gold"), ("cascade", "bronze"), ("delta", "bronze"))

app = Application("shop")


class PaymentRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A purchase as the client states it; `amount` is in cents, and zero is a valid price."""

    customer: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    purchased_on: date
    amount: Annotated[int, msgspec.Meta(ge=0, le=10_000_000)]
    currency: Literal["USD"]
    discs: Annotated[int, msgspec.Meta(ge=1, le=10_000)]


class PaymentAccepted(msgspec.Struct, frozen=True):
    """The event, and the row of the lake table."""

    id: int
    tenant: str
    customer: str
    day: str
    amount: int
    currency: str
    discs: int


class PaymentAnswer(msgspec.Struct, frozen=True):
    """Ids are strings in JSON: 64 bits don't fit a JavaScript number."""

    id: str
    amount: int
    currency: str


payments = app.topic("payments", PaymentAccepted)
service = app.service(
    "payments",
    schema=[
        """CREATE TABLE IF NOT EXISTS payments (
            id INTEGER PRIMARY KEY, tenant TEXT NOT NULL, customer TEXT NOT NULL,
            day TEXT NOT NULL, amount INTEGER NOT NULL CHECK (amount >= 0),
            currency TEXT NOT NULL, discs INTEGER NOT NULL) STRICT"""
    ],
)


@service.post("/payments")
def accept(request: PaymentRequest, unit: Unit) -> PaymentAnswer:
    """Take a payment: the row and its event in one transaction."""
    event = PaymentAccepted(
        id=unit.new_id(),
        tenant=unit.headers["tenant"],
        customer=request.customer,
        day=request.purchased_on.isoformat(),
        amount=request.amount,
        currency=request.currency,
        discs=request.discs,
    )
    unit.execute(
        "INSERT INTO payments VALUES (?, ?, ?, ?, ?, ?, ?)", msgspec.structs.astuple(event)
    )
    unit.publish(payments, event, key=event.customer, event_id=event.id)
    return PaymentAnswer(str(event.id), event.amount, event.currency)


@app.pipeline("ledger", payments)
def post(event: PaymentAccepted, context: Context) -> None:
    """Post the payment: the customer's account owes it, the tenant has earned it."""
    context.ledger.transfer(
        id=event.id,
        debit=f"customer/{event.customer}",
        credit=f"tenant/{event.tenant}",
        amount=event.amount,
        currency=event.currency,
        code="payment",
    )


stored = app.store(payments)
daily = app.report(
    "daily",
    stored,
    {
        "totals": """
            SELECT day, count(*) AS purchases, sum(amount)::BIGINT AS revenue,
                   sum(discs)::BIGINT AS discs, count(DISTINCT customer) AS customers
            FROM payments GROUP BY day""",
        "tenants": """
            SELECT day, tenant, count(*) AS purchases, sum(amount)::BIGINT AS revenue
            FROM payments GROUP BY day, tenant""",
        "top_customers": """
            SELECT day, customer, count(*) AS purchases, sum(amount)::BIGINT AS revenue
            FROM payments GROUP BY day, customer
            QUALIFY row_number() OVER (PARTITION BY day ORDER BY revenue DESC, customer) <= 10""",
    },
    title="Purchases by day",
    amounts=("revenue",),
)
app.matches(
    Counterfoils(
        service="payments",
        rows="payments",
        topic=payments,
        posted="payment",
        stored=stored,
        report=daily,
        section="totals",
        count="purchases",
        total="revenue",
        accounts=lambda event: (f"customer/{event['customer']}", f"tenant/{event['tenant']}"),
    )
)


@app.workload
def purchases(number: int, seed: int) -> Iterator[Request]:
    """The real purchase log by date: all of it, or customers drawn by `seed`.

    Customers who bought the same thing twice in a day are drawn first: a pipeline that
    deduplicates by content would lose such purchases.
    """
    with gzip.open(PURCHASES, "rt") as file:
        next(file)
        lines = [tuple(line.split()) for line in file]
    by_customer: dict[str, list[tuple[str, ...]]] = {}
    for line in lines:
        by_customer.setdefault(line[0], []).append(line)
    customers = list(by_customer)
    random.Random(seed).shuffle(customers)
    customers.sort(key=lambda name: len(set(by_customer[name])) == len(by_customer[name]))
    chosen = [line for name in customers for line in by_customer[name]][:number]
    for sequence, (customer, day, discs, dollars) in enumerate(sorted(chosen, key=lambda c: c[1])):
        tenant, tier = TENANTS[int(customer) % len(TENANTS)]
        amount = int(Decimal(dollars) * 100)
        yield Request(
            path="/payments",
            body=PaymentRequest(customer, date.fromisoformat(day), amount, "USD", int(discs)),
            tenant=tenant,
            tier=tier,
            idempotency_key=f"{seed}-{sequence}",
            amount=amount,
        )
