"""The web side of a service: whose answer a repeated key gets."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from starlette.testclient import TestClient
from structlog.testing import capture_logs

from counterfoil import Application, Refusal
from counterfoil.application.configuration import ConfigurationError
from counterfoil.application.queries import Queries
from counterfoil.application.service import Service
from counterfoil.application.web import scoped_key, web_application
from counterfoil.events import EmbeddedEvents, ServiceStore, Topic, Unit
from counterfoil.events.errors import Contended


class Order(msgspec.Struct):
    amount: int


class Ordered(msgspec.Struct):
    id: str


class Mistake(msgspec.Struct):
    name: str


APPLICATION = Application("shop")
ordered = APPLICATION.topic("ordered", Ordered)


def fail(unit: Unit) -> None:
    raise KeyError("a mistake in the program")


MISTAKES: dict[str, Callable[[Unit], object]] = {
    "raises": fail,
    "has a wrong statement": lambda unit: unit.execute("INSERT INTO no_such_table VALUES (1)"),
    "has an event of another type": lambda unit: unit.publish(ordered, Order(1), key="a"),  # pyright: ignore[reportArgumentType]
    "has a number for a key": lambda unit: unit.publish(ordered, Ordered("1"), key=7),  # pyright: ignore[reportArgumentType]
    "has a topic that nobody declares": lambda unit: unit.publish(
        Topic("elsewhere", Ordered), Ordered("1"), key="a"
    ),
    "refuses with what is no refusal": lambda unit: Refusal(200, "fine"),
}


@pytest.fixture
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """Asks a service that keeps orders."""
    service = Service("shop", ("CREATE TABLE IF NOT EXISTS orders (id INTEGER PRIMARY KEY)",))

    @service.post("/orders")
    def order(request: Order, unit: Unit) -> Ordered:
        number = unit.new_id()
        unit.execute("INSERT INTO orders VALUES (?)", (number,))
        return Ordered(str(number))

    @service.post("/mistakes")
    def make(request: Mistake, unit: Unit) -> Ordered:
        number = unit.new_id()
        unit.execute("INSERT INTO orders VALUES (?)", (number,))
        MISTAKES[request.name](unit)
        return Ordered(str(number))

    @service.post("/nothing")
    def nothing(request: Order, unit: Unit) -> Ordered:
        return None  # pyright: ignore[reportReturnType] - a mistake that programs make

    @service.post("/who")
    def who(request: Order, unit: Unit) -> Ordered:
        return Ordered(f"{unit.tenant} in {unit.tier}")

    ids = itertools.count(1)
    events = EmbeddedEvents(tmp_path_factory.mktemp("shop"))
    database = events.service("shop")
    store = ServiceStore(
        database,
        service.schema,
        next_id=lambda: next(ids),
        clock_us=lambda: 1_000_000,
        topics=APPLICATION.all_topics(),
    )
    queries = Queries(events, "shop", APPLICATION.pipelines)
    with TestClient(web_application(service, store, queries)) as client:
        yield client
    queries.close()
    store.close()


def test_a_command_that_is_done_again_gets_its_request_as_it_was_sent(
    tmp_path: Path,
) -> None:
    service, amounts = Service("shop", ()), list[int]()

    @service.post("/orders")
    def order(request: Order, unit: Unit) -> Ordered:
        request.amount += 5
        amounts.append(request.amount)
        if len(amounts) < 3:
            raise Contended("another instance waits for this one")
        return Ordered("1")

    events = EmbeddedEvents(tmp_path)
    store = ServiceStore(events.service("shop"), (), next_id=lambda: 1, clock_us=lambda: 1)
    queries = Queries(events, "shop", {})
    with TestClient(web_application(service, store, queries)) as client:
        answer = client.post("/orders", json={"amount": 1}, headers={"idempotency-key": "1"})
    queries.close()
    store.close()
    assert (answer.status_code, amounts) == (201, [6, 6, 6])


def order(client: TestClient, tenant: str, key: str) -> str:
    answer = client.post(
        "/orders",
        json={"amount": 5},
        headers={"idempotency-key": key, "x-counterfoil-tenant": tenant},
    )
    assert answer.status_code == 201, answer.text
    return answer.json()["id"]


def test_a_key_belongs_to_its_tenant_whatever_both_are_made_of(client: TestClient) -> None:
    asked = [("acme", "eu/1"), ("acme/eu", "1"), ("acme%2Feu", "1"), ("acme/eu%", "/1"), ("", "a")]
    first = [order(client, *each) for each in asked]
    assert len(set(first)) == len(asked)
    assert [order(client, *each) for each in asked] == first


def test_keys_of_tenants_without_a_slash_are_kept_as_they_always_were() -> None:
    assert scoped_key("acme", "eu/1") == "acme/eu/1"


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_a_command_is_answered_logged_and_leaves_nothing(
    client: TestClient, mistake: str
) -> None:
    headers = {"idempotency-key": "k", "x-request-id": "request 1"}
    with capture_logs() as lines:
        answers = [client.post("/mistakes", json={"name": mistake}, headers=headers)] * 2
    assert [answer.status_code for answer in answers] == [500, 500]
    assert answers[0].headers["content-type"] == "application/problem+json"
    assert "nothing was written" in answers[0].json()["detail"]
    assert lines[0]["event"] == "command_failed"
    assert lines[0]["request_id"] == "request 1"
    assert lines[0]["exc_info"]


def test_an_answer_that_is_none_is_a_mistake_too(client: TestClient) -> None:
    with capture_logs() as lines:
        answer = client.post("/nothing", json={"amount": 1}, headers={"idempotency-key": "k"})
    assert answer.status_code == 500
    assert lines[0]["event"] == "command_failed"


def test_a_command_knows_who_asks(client: TestClient) -> None:
    headers = {"idempotency-key": "k", "x-counterfoil-tenant": "acme", "x-counterfoil-tier": "gold"}
    answer = client.post("/who", json={"amount": 1}, headers=headers)
    assert answer.json() == {"id": "acme in gold"}


def test_what_a_service_does_not_offer_is_refused_like_everything_else(client: TestClient) -> None:
    for answer, status in ((client.get("/orders"), 405), (client.post("/order"), 404)):
        assert answer.status_code == status
        assert answer.json()["status"] == status
        assert "/order" in answer.json()["detail"]


async def wait(request: Order, unit: Unit) -> Ordered:
    raise NotImplementedError


def accept(request: Order, unit: Unit) -> Ordered:
    raise NotImplementedError


@pytest.mark.parametrize(
    ("path", "handle", "said"),
    [("orders", accept, '"/orders"'), ("/orders", accept, "twice"), ("/waits", wait, "coroutine")],
)
def test_a_command_that_could_not_work_is_refused_where_it_is_declared(
    path: str, handle: Callable[..., Ordered], said: str
) -> None:
    service = Service("shop", ())
    service.post("/orders")(accept)
    with pytest.raises(ConfigurationError, match=said):
        service.post(path)(handle)
