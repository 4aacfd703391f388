"""A wallet: people send each other money, and every transfer happens once."""

import random
from collections.abc import Iterator
from typing import Annotated, Literal

import msgspec

from counterfoil import Application, Context, Counterfoils, Refusal, Request, Unit, View

app = Application("wallet")
Person = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]


class TransferRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a client asks for; `amount` is in cents."""

    payer: Person
    payee: Person
    amount: Annotated[int, msgspec.Meta(gt=0, le=1_000_000)]
    currency: Literal["EUR"]


class Transfer(msgspec.Struct, frozen=True):
    """The answer, the event, and the row of the lake table. Ids are text in JSON."""

    id: str
    day: str
    payer: str
    payee: str
    amount: int


transfers = app.topic("transfers", Transfer)
service = app.service(
    "wallet",
    schema=[
        "CREATE TABLE IF NOT EXISTS transfers (id TEXT PRIMARY KEY, day TEXT, payer TEXT, "
        "payee TEXT, amount INTEGER) STRICT"
    ],
)


@service.post("/transfers")
def send(request: TransferRequest, unit: Unit) -> Transfer:
    """Book a transfer: the row and its event in one transaction."""
    if request.payer == request.payee:
        raise Refusal(422, "nobody can pay themselves")
    number = unit.new_id()
    transfer = Transfer(str(number), unit.day, request.payer, request.payee, request.amount)
    unit.execute("INSERT INTO transfers VALUES (?, ?, ?, ?, ?)", msgspec.structs.astuple(transfer))
    unit.publish(transfers, transfer, key=request.payer, event_id=number)
    return transfer


@app.pipeline("ledger", transfers)
def post(event: Transfer, context: Context) -> None:
    """Move the money in the ledger."""
    context.ledger.transfer(
        id=int(event.id),
        debit=event.payer,
        credit=event.payee,
        amount=event.amount,
        currency="EUR",
        code="transfer",
    )


class BalanceOf(msgspec.Struct, frozen=True):
    """Whose balance a client asks for: the part of the path."""

    person: Person


class Balance(msgspec.Struct, frozen=True):
    """What somebody has, in cents; what was sent without having it is below zero."""

    person: str
    cents: int


@service.get("/balances/{person}", reads=["ledger"])
def balance(request: BalanceOf, view: View) -> Balance:
    """Look into the ledger."""
    return Balance(request.person, view.balance(request.person, "EUR"))


table = app.store(transfers)
SQL = "SELECT day, count(*) AS sent, sum(amount)::BIGINT AS volume FROM transfers GROUP BY day"
daily = app.report("daily", table, {"totals": SQL}, title="Transfers", amounts=("volume",))
app.matches(
    Counterfoils(
        "wallet",
        "transfers",
        transfers,
        "transfer",
        table,
        daily,
        "totals",
        "sent",
        "volume",
        currency="EUR",
        accounts=lambda event: (event["payer"], event["payee"]),
    )
)


@app.workload
def some_transfers(number: int, seed: int) -> Iterator[Request]:
    """What `counterfoil prove` sends."""
    chance = random.Random(seed)
    for key in range(number):
        payer, payee = chance.sample(["ada", "ben", "cleo", "dan"], 2)
        body = TransferRequest(payer, payee, chance.randint(1, 9_999), "EUR")
        yield Request("/transfers", body, "home", "gold", f"{seed}-{key}", body.amount)
