"""What a service offers to be read: typed, current enough, and unable to change anything."""

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from counterfoil import Application, Context, Refusal, Unit, View
from counterfoil.application.configuration import ConfigurationError
from counterfoil.application.service import Service
from counterfoil.engines import RunningEngine
from counterfoil.events import Database, EmbeddedEvents, KafkaEvents
from counterfoil.testing import Rehearsal, RehearsalError

app = Application("bank")


class Deposit(msgspec.Struct, frozen=True):
    account: str
    amount: int


class Deposited(msgspec.Struct, frozen=True):
    id: str
    account: str
    amount: int


class Asked(msgspec.Struct, frozen=True):
    account: str
    limit: int = 10


class Balance(msgspec.Struct, frozen=True):
    account: str
    cents: int
    deposits: int
    rows: list[int]
    tenant: str


deposits = app.topic("deposits", Deposited)
bank = app.service(
    "bank", schema=["CREATE TABLE IF NOT EXISTS deposits (id TEXT PRIMARY KEY, amount INTEGER)"]
)


@bank.post("/deposits")
def deposit(request: Deposit, unit: Unit) -> Deposited:
    made = Deposited(str(unit.new_id()), request.account, request.amount)
    unit.execute("INSERT INTO deposits VALUES (?, ?)", (made.id, made.amount))
    unit.publish(deposits, made, key=made.account, event_id=int(made.id))
    return made


@app.pipeline("ledger", deposits)
def post(event: Deposited, context: Context) -> None:
    context.ledger.transfer(
        id=int(event.id),
        debit="cash",
        credit=event.account,
        amount=event.amount,
        currency="EUR",
        code="deposit",
    )
    number = int(context.state.get(event.account) or b"0")
    context.state.put(event.account, b"%d" % (number + 1))


@bank.get("/balances/{account}", reads=["ledger"])
def balance(request: Asked, view: View) -> Balance:
    if request.account == "nobody":
        raise Refusal(404, "no such account")
    rows = view.execute("SELECT amount FROM deposits ORDER BY id LIMIT ?", (request.limit,))
    return Balance(
        request.account,
        view.balance(request.account, "EUR"),
        int(view.state("ledger", request.account) or b"0"),
        [amount for (amount,) in rows],
        view.tenant,
    )


@bank.get("/mistakes/{account}")
def mistake(request: Asked, view: View) -> Balance:
    if request.account == "writes":
        view.execute("DELETE FROM deposits")
    elif request.account == "writes to the pipelines":
        view.execute_on_pipelines("DELETE FROM state")
    elif request.account == "asks nobody":
        try:
            view.state("lodger", "ada")
        except LookupError as error:
            raise Refusal(410, str(error)) from error
        view.state("tasks.letters", "ada")
    return None  # pyright: ignore[reportReturnType] - a mistake that programs make


@app.tasks("letters", Deposited)
def letter(task: Deposited) -> None:
    """Keeps nothing, but could."""


@pytest.fixture
def rehearsal() -> Iterator[Rehearsal]:
    with Rehearsal(app) as rehearsal:
        yield rehearsal


def test_a_query_reads_rows_state_and_ledger(rehearsal: Rehearsal) -> None:
    for number in range(3):
        rehearsal.post("/deposits", Deposit("ada", 5 + number), idempotency_key=str(number))
    rehearsal.run()
    answer = rehearsal.get("/balances/ada?limit=2", tenant="acme")
    assert answer.status_code == 200
    assert msgspec.json.decode(answer.content, type=Balance) == Balance(
        "ada", 18, 3, [5, 6], "acme"
    )


def test_who_hands_in_a_token_sees_that_write_or_is_told_to_come_again(
    rehearsal: Rehearsal,
) -> None:
    made = rehearsal.post("/deposits", Deposit("ada", 5), idempotency_key="1")
    token = made.headers["counterfoil-consistency-token"]
    early = rehearsal.get("/balances/ada", token=token)
    assert (early.status_code, early.headers["retry-after"]) == (503, "1")
    assert rehearsal.get("/balances/ada").json()["cents"] == 0, "nothing was asked to be seen"
    rehearsal.run()
    assert rehearsal.get("/balances/ada", token=token).json()["cents"] == 5
    assert rehearsal.get("/balances/ada", token="no token").status_code == 400


@pytest.mark.parametrize(
    ("path", "status", "says"),
    [
        ("/balances/ada?limit=many", 422, "$.limit"),
        ("/balances/nobody", 404, "no such account"),
        ("/mistakes/writes", 500, "the query failed"),
        ("/mistakes/writes%20to%20the%20pipelines", 500, "the query failed"),
        ("/mistakes/none", 500, "the query failed"),
        (
            "/mistakes/asks%20nobody",
            410,
            "no 'lodger' keeps state here, but ledger, tasks.letters",
        ),
    ],
)
def test_what_is_wrong_is_told_in_a_problem_document(
    rehearsal: Rehearsal, path: str, status: int, says: str
) -> None:
    rehearsal.post("/deposits", Deposit("ada", 5), idempotency_key="1")
    rehearsal.run()
    with capture_logs() as lines:
        answer = rehearsal.get(path)
    assert answer.status_code == status
    assert says in answer.json()["detail"]
    assert [line["event"] for line in lines] == ["query_failed"] * (status == 500)
    after = rehearsal.get("/balances/ada").json()
    assert (after["rows"], after["deposits"]) == ([5], 1), "nothing was changed"


def test_a_path_and_a_service_that_are_not_there_are_named(rehearsal: Rehearsal) -> None:
    with pytest.raises(RehearsalError, match="GET /balance/ada"):
        rehearsal.get("/balance/ada")
    with pytest.raises(RehearsalError, match="declared: bank"):
        rehearsal.query("bnak", "SELECT 1")


def forgets(request: Deposit, view: View) -> Balance:
    raise NotImplementedError


def untyped(request: Any, view: View) -> Balance:
    raise NotImplementedError


@pytest.mark.parametrize(
    ("path", "handle", "says"),
    [
        ("/of/{owner}", forgets, "no field 'owner'"),
        ("/of/{account}", untyped, "no msgspec.Struct type"),
        ("/balances/{account}", forgets, "twice"),
        ("of/{account}", forgets, "no path"),
    ],
)
def test_a_query_that_could_not_work_is_refused_where_it_is_declared(
    path: str, handle: Callable[..., Balance], says: str
) -> None:
    service = Service("bank", ())
    service.get("/balances/{account}")(balance)
    with pytest.raises(ConfigurationError, match=says):
        service.get(path)(handle)


@pytest.fixture(params=["sqlite", "postgres"])
def database(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    engine: Callable[[str], RunningEngine],
) -> Iterator[Database]:
    if request.param == "sqlite":
        opened = EmbeddedEvents(tmp_path_factory.mktemp("events")).service("bank")
    else:
        server = engine("postgres")
        opened = KafkaEvents("127.0.0.1:1", server.address, server.secret, "reading").service(
            "bank"
        )
    opened.create(["CREATE TABLE IF NOT EXISTS kept (id INTEGER PRIMARY KEY)"])
    yield opened
    opened.close()


def test_whoever_reads_can_not_write_until_the_end_and_can_afterwards(database: Database) -> None:
    with pytest.raises(Exception, match=r"(?i)read.?only"), database.reading():
        assert database.execute("SELECT count(*) FROM kept").fetchone() == (0,)
        database.execute("INSERT INTO kept VALUES (1)")
    with database.transaction():
        database.execute("INSERT INTO kept VALUES (1)")
    with database.reading():
        assert database.execute("SELECT count(*) FROM kept").fetchone() == (1,)
    with database.transaction():
        database.execute("DELETE FROM kept")
