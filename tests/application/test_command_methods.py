"""Commands by every method: what they read, what they answer, and once for each key."""

import itertools
import uuid
from collections.abc import Callable, Iterator
from typing import Annotated, Any, cast

import msgspec
import pytest
from starlette.testclient import TestClient

from counterfoil import Application, Refusal, Unit, View
from counterfoil.application.configuration import ConfigurationError
from counterfoil.application.queries import Queries
from counterfoil.application.service import Service
from counterfoil.application.web import web_application
from counterfoil.engines import RunningEngine
from counterfoil.events import EmbeddedEvents, Events, KafkaEvents, ServiceStore
from counterfoil.testing import Rehearsal, RehearsalError

app = Application("market")
TABLE = (
    "CREATE TABLE IF NOT EXISTS items (cart TEXT NOT NULL, product INTEGER NOT NULL, "
    "quantity INTEGER NOT NULL, note TEXT, PRIMARY KEY (cart, product))"
)


class Put(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    cart: str
    product: int
    quantity: Annotated[int, msgspec.Meta(ge=1)]


class Change(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    cart: str
    product: int
    quantity: int | msgspec.UnsetType = msgspec.UNSET
    note: str | msgspec.UnsetType | None = msgspec.UNSET


class Removal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    cart: str
    product: int
    why: str = "changed my mind"


class Emptying(msgspec.Struct, frozen=True):
    cart: str


class Item(msgspec.Struct, frozen=True):
    id: str
    cart: str
    product: int
    quantity: int
    note: str | None = None


class Cart(msgspec.Struct, frozen=True):
    items: list[Item]


class Changed(msgspec.Struct, frozen=True):
    what: str


changes = app.topic("changes", Changed)
market = app.service("market", schema=[TABLE])


@market.put("/carts/{cart}/items/{product}")
def put(request: Put, unit: Unit) -> Item:
    values = (request.cart, request.product, request.quantity)
    found = unit.execute("SELECT 1 FROM items WHERE cart = ? AND product = ?", values[:2])
    if found.fetchone() is None:
        unit.created()
    unit.execute(
        "INSERT INTO items VALUES (?, ?, ?, NULL) ON CONFLICT (cart, product) "
        "DO UPDATE SET quantity = excluded.quantity",
        values,
    )
    unit.publish(changes, Changed(f"put {request.quantity}"), key=request.cart)
    return Item(str(unit.new_id()), *values)


@market.patch("/carts/{cart}/items/{product}")
def change(request: Change, unit: Unit) -> Item:
    given = msgspec.structs.asdict(request)
    for name in ("quantity", "note"):
        if given[name] is not msgspec.UNSET:
            unit.execute(f"UPDATE items SET {name} = ?", (given[name],))
    found = unit.execute("SELECT quantity, note FROM items").fetchone()
    if found is None:
        raise Refusal(404, "no such item")
    unit.publish(changes, Changed("changed"), key=request.cart)
    return Item(str(unit.new_id()), request.cart, request.product, *found)


@market.delete("/carts/{cart}/items/{product}")
def remove(request: Removal, unit: Unit) -> Changed:
    unit.execute("DELETE FROM items")
    unit.publish(changes, Changed(f"removed: {request.why}"), key=request.cart)
    return Changed(request.why)


@market.delete("/carts/{cart}")
def empty(request: Emptying, unit: Unit) -> None:
    unit.execute("DELETE FROM items")
    unit.publish(changes, Changed("emptied"), key=request.cart)


@market.get("/carts/{cart}")
def cart(request: Emptying, view: View) -> Cart:
    rows = view.execute("SELECT cart, product, quantity, note FROM items")
    return Cart([Item("", *row) for row in rows])


class Market:
    """The service on one engine, with what it has left in its outbox."""

    def __init__(self, events: Events) -> None:
        ids = itertools.count(1)
        self._database = events.service("market")
        self._store = ServiceStore(
            events.service("market"),
            market.schema,
            next_id=lambda: next(ids),
            clock_us=lambda: 1_000_000,
            topics=app.all_topics(),
        )
        self._queries = Queries(events, "market", app.pipelines)
        self.client = TestClient(web_application(market, self._store, self._queries))

    def ask(self, method: str, path: str, body: object = None, key: str = "") -> Any:
        """Ask for `path`, by default with a key of its own."""
        headers = {"idempotency-key": key or uuid.uuid4().hex}
        content = b"" if body is None else msgspec.json.encode(body)
        return self.client.request(method, path, content=content, headers=headers)

    def published(self) -> list[str]:
        """What has happened, as the outbox has it."""
        rows = self._database.execute("SELECT value FROM outbox ORDER BY seq").fetchall()
        return [msgspec.json.decode(value, type=Changed).what for (value,) in rows]

    def close(self) -> None:
        """Close all of it."""
        self._queries.close()
        self._store.close()
        self._database.close()


@pytest.fixture(params=["sqlite", "postgres"])
def shop(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    engine: Callable[[str], RunningEngine],
) -> Iterator[Market]:
    """The market on either engine."""
    events: Events = EmbeddedEvents(tmp_path_factory.mktemp("market"))
    if cast("str", request.param) == "postgres":
        running = engine("postgres")
        events = KafkaEvents("nowhere:1", running.address, running.secret, uuid.uuid4().hex)
    market = Market(events)
    yield market
    market.close()


def test_a_put_takes_path_and_body_and_says_whether_it_has_made_something(shop: Market) -> None:
    made = shop.ask("PUT", "/carts/a%20b/items/7", {"quantity": 2})
    assert made.status_code == 201, made.text
    assert (made.json()["cart"], made.json()["product"]) == ("a b", 7)
    again = shop.ask("PUT", "/carts/a%20b/items/7", {"quantity": 3})
    assert again.status_code == 200
    assert [each["quantity"] for each in shop.ask("GET", "/carts/a%20b").json()["items"]] == [3]


def test_an_answer_of_get_can_be_put_back(shop: Market) -> None:
    said = {"cart": "a", "product": 7, "quantity": 2}
    assert shop.ask("PUT", "/carts/a/items/7", said).status_code == 201


@pytest.mark.parametrize(
    ("path", "body", "says"),
    [
        ("/carts/a/items/7", {"cart": "b", "quantity": 2}, "another cart than the path"),
        ("/carts/a/items/7", {"product": "7", "quantity": 2}, "$.product"),
        ("/carts/a/items/seven", {"quantity": 2}, "$.product"),
        ("/carts/a/items/7", {"quantity": 0}, "$.quantity"),
        ("/carts/a/items/7", {"quantity": 1, "colour": "red"}, "colour"),
        ("/carts/a/items/7", [], "object"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_field(
    shop: Market, path: str, body: object, says: str
) -> None:
    refused = shop.ask("PUT", path, body)
    assert refused.status_code == 422
    assert says in refused.json()["detail"]
    assert shop.published() == []


def test_a_patch_tells_what_is_left_out_from_what_is_none(shop: Market) -> None:
    assert shop.ask("PATCH", "/carts/a/items/7", {}).status_code == 404
    shop.ask("PUT", "/carts/a/items/7", {"quantity": 2})
    noted = shop.ask("PATCH", "/carts/a/items/7", {"note": "gift"})
    assert (noted.status_code, noted.json()["quantity"], noted.json()["note"]) == (200, 2, "gift")
    fewer = shop.ask("PATCH", "/carts/a/items/7", {"quantity": 1}).json()
    assert (fewer["quantity"], fewer["note"]) == (1, "gift")
    assert shop.ask("PATCH", "/carts/a/items/7", {"note": None}).json()["note"] is None


def test_a_delete_is_read_from_its_address_alone(shop: Market) -> None:
    removed = shop.ask("DELETE", "/carts/a/items/7?why=too%20dear")
    assert (removed.status_code, removed.json()) == (200, {"what": "too dear"})
    emptied = shop.ask("DELETE", "/carts/a")
    assert (emptied.status_code, emptied.content) == (204, b"")
    assert "content-type" not in emptied.headers
    assert shop.ask("DELETE", "/carts/a/items/7?when=now").status_code == 422
    refused = shop.ask("DELETE", "/carts/a/items/7", {"why": "too dear"})
    assert refused.status_code == 400
    assert "query string" in refused.json()["detail"]


def test_each_is_done_once_for_its_key_and_so_is_what_it_publishes(shop: Market) -> None:
    asked: list[tuple[str, str, object]] = [
        ("PUT", "/carts/a/items/7", {"quantity": 2}),
        ("PATCH", "/carts/a/items/7", {"note": "gift"}),
        ("DELETE", "/carts/a/items/7", None),
        ("DELETE", "/carts/a", None),
    ]
    first = [shop.ask(*each, key=f"key {number}") for number, each in enumerate(asked)]
    # A repeat that comes late must not undo what has been done since.
    shop.ask("PUT", "/carts/a/items/7", {"quantity": 9})
    again = [shop.ask(*each, key=f"key {number}") for number, each in enumerate(asked)]
    for answer, repeated in zip(first, again, strict=True):
        assert (repeated.status_code, repeated.content) == (answer.status_code, answer.content)
    assert [each["quantity"] for each in shop.ask("GET", "/carts/a").json()["items"]] == [9]
    assert shop.published() == [
        "put 2",
        "changed",
        "removed: changed my mind",
        "emptied",
        "put 9",
    ]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PUT", "/carts/b/items/7", {"quantity": 2}),
        ("PUT", "/carts/a/items/7", {"quantity": 3}),
        ("PATCH", "/carts/a/items/7", {"quantity": 2}),
        ("DELETE", "/carts/a/items/7", None),
    ],
)
def test_a_key_stands_for_one_method_one_address_and_one_body(
    shop: Market, method: str, path: str, body: object
) -> None:
    shop.ask("PUT", "/carts/a/items/7", {"quantity": 2}, key="k")
    refused = shop.ask(method, path, body, key="k")
    assert refused.status_code == 422
    assert "used before" in refused.json()["detail"]
    assert shop.published() == ["put 2"]


def test_a_key_stands_for_one_query_string_of_a_delete(shop: Market) -> None:
    shop.ask("DELETE", "/carts/a/items/7?why=one", key="k")
    assert shop.ask("DELETE", "/carts/a/items/7?why=another", key="k").status_code == 422


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
def test_no_command_is_done_without_a_key(shop: Market, method: str) -> None:
    refused = shop.client.request(method, "/carts/a/items/7", content=b"{}")
    assert (refused.status_code, shop.published()) == (400, [])


def test_a_path_says_which_methods_it_has(shop: Market) -> None:
    refused = shop.ask("POST", "/carts/a")
    assert (refused.status_code, refused.headers["allow"]) == (405, "DELETE, GET, HEAD, OPTIONS")
    refused = shop.ask("GET", "/carts/a/items/7")
    assert (refused.status_code, refused.headers["allow"]) == (405, "DELETE, OPTIONS, PATCH, PUT")
    offered = shop.ask("OPTIONS", "/carts/a/items/7")
    assert (offered.status_code, offered.headers["allow"]) == (204, "DELETE, OPTIONS, PATCH, PUT")
    assert shop.ask("OPTIONS", "/nowhere").status_code == 404
    assert shop.ask("HEAD", "/carts/a").status_code == 200


def test_a_rehearsal_asks_by_every_method() -> None:
    with Rehearsal(app) as rehearsal:
        path = "/carts/a/items/7"
        assert rehearsal.put(path, Put("a", 7, 2), idempotency_key="1").status_code == 201
        changed = rehearsal.patch(path, Change("a", 7, note="gift"), idempotency_key="2")
        assert changed.json()["quantity"] == 2
        removed = rehearsal.delete(f"{path}?why=broken", idempotency_key="3")
        assert removed.json() == {"what": "broken"}
        rehearsal.run()
        expected = [Changed("put 2"), Changed("changed"), Changed("removed: broken")]
        assert rehearsal.events(changes) == expected
        with pytest.raises(RehearsalError, match=r"PUT /carts/a$"):
            rehearsal.put("/carts/a", b"{}", idempotency_key="4")


class Listing(msgspec.Struct):
    cart: list[str]


class Row(msgspec.Struct, array_like=True):
    cart: str


def lists(request: Listing, unit: Unit) -> None:
    raise NotImplementedError


def row(request: Row, unit: Unit) -> None:
    raise NotImplementedError


@pytest.mark.parametrize(
    ("path", "handle", "says"),
    [
        ("/of/{owner}", empty, "no field 'owner'"),
        ("/of/{cart}/{cart}", empty, "twice"),
        ("/of/{cart}", lists, "can't be read from a path"),
        ("/of/{cart}", row, "array_like"),
        ("/carts/{cart}", empty, "twice"),
        ("/carts/{product}", empty, "never reached"),
        ("/carts/mine", empty, "never reached"),
        ("carts", empty, "no path"),
    ],
)
def test_a_command_that_could_not_work_is_refused_where_it_is_declared(
    path: str, handle: Callable[..., None], says: str
) -> None:
    service = Service("market", ())
    service.put("/carts/{cart}")(empty)
    with pytest.raises(ConfigurationError, match=says):
        service.put(path)(handle)


def test_a_path_may_have_several_methods_and_a_whole_one_may_come_first() -> None:
    service = Service("market", ())
    service.put("/carts/mine")(empty)
    service.put("/carts/{cart}")(empty)
    service.delete("/carts/{cart}")(empty)
    assert [each.method for each in service.commands] == ["PUT", "PUT", "DELETE"]
