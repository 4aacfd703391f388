"""The web side of a service: whose answer a repeated key gets."""

import itertools
from collections.abc import Iterator

import msgspec
import pytest
from starlette.testclient import TestClient

from counterfoil.application.service import Service
from counterfoil.application.web import scoped_key, web_application
from counterfoil.events import EmbeddedEvents, ServiceStore, Unit


class Order(msgspec.Struct):
    amount: int


class Ordered(msgspec.Struct):
    id: str


@pytest.fixture
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """Asks a service that keeps orders."""
    service = Service("shop", ("CREATE TABLE IF NOT EXISTS orders (id INTEGER PRIMARY KEY)",))

    @service.post("/orders")
    def order(request: Order, unit: Unit) -> Ordered:
        number = unit.new_id()
        unit.execute("INSERT INTO orders VALUES (?)", (number,))
        return Ordered(str(number))

    ids = itertools.count(1)
    database = EmbeddedEvents(tmp_path_factory.mktemp("shop")).service("shop")
    store = ServiceStore(
        database, service.schema, next_id=lambda: next(ids), clock_us=lambda: 1_000_000
    )
    with TestClient(web_application(service, store)) as client:
        yield client
    store.close()


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
