"""Whatever is wrong with a request: a problem document of the right status, nothing written."""

import sqlite3
import time
from collections.abc import Iterator
from http.client import HTTPResponse

import httpx2
import pytest
from running import PURCHASE, RunningShop


def rows(shop: RunningShop) -> tuple[int, int]:
    connection = sqlite3.connect(f"file:{shop.state.service('payments')}?mode=ro", uri=True)
    try:
        return connection.execute(
            "SELECT (SELECT count(*) FROM payments), (SELECT count(*) FROM outbox)"
        ).fetchone()
    finally:
        connection.close()


def headers(shop: RunningShop, key: str = "bad-input") -> dict[str, str]:
    return {"authorization": f"Bearer {shop.token()}", "idempotency-key": key}


def is_problem(answer: httpx2.Response, status: int) -> bool:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == status
    return bool(answer.json()["title"])


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"\xff\xfe", 400),
        (b"[" * 100_000, 422),
        (b"[]", 422),
        (b"null", 422),
        (b'{"amount": 1}', 422),
    ],
)
def test_a_body_that_is_no_purchase(shop: RunningShop, content: bytes, status: int) -> None:
    before = rows(shop)
    with shop.client() as client:
        assert is_problem(client.post("/payments", content=content, headers=headers(shop)), status)
    assert rows(shop) == before


@pytest.mark.parametrize(
    "change",
    [
        {"amount": -1},
        {"amount": 12.5},
        {"amount": "1299"},
        {"amount": 10_000_001},
        {"amount": 2**80},
        {"amount": None},
        {"currency": "XXX"},
        {"currency": 1},
        {"discs": 0},
        {"customer": ""},
        {"customer": "x" * 65},
        {"purchased_on": "1997-02-30"},
        {"surprise": True},
    ],
)
def test_a_purchase_with_a_wrong_field(shop: RunningShop, change: dict[str, object]) -> None:
    before = rows(shop)
    with shop.client() as client:
        answer = client.post("/payments", json={**PURCHASE, **change}, headers=headers(shop))
        assert is_problem(answer, 422)
    assert rows(shop) == before


def test_a_key_is_needed_and_belongs_to_one_body(shop: RunningShop) -> None:
    with shop.client() as client:
        without = headers(shop)
        del without["idempotency-key"]
        assert is_problem(client.post("/payments", json=PURCHASE, headers=without), 400)
        too_long = headers(shop, "k" * 256)
        assert is_problem(client.post("/payments", json=PURCHASE, headers=too_long), 400)
        mine = headers(shop, "one-body")
        first = client.post("/payments", json=PURCHASE, headers=mine)
        again = client.post("/payments", json=PURCHASE, headers=mine)
        assert first.status_code == again.status_code == 201
        assert first.json() == again.json()
        before = rows(shop)
        other = client.post("/payments", json={**PURCHASE, "amount": 1}, headers=mine)
        assert is_problem(other, 422)
        assert rows(shop) == before


def test_without_a_good_token_nothing_goes_through(shop: RunningShop) -> None:
    before = rows(shop)
    token = shop.token()
    head, payload, signature = token.split(".")
    bad = [
        "",
        "Bearer",
        "Bearer x.y.z",
        f"Basic {token}",
        f"Bearer {head}.{payload}.{signature[::-1]}",
        f"Bearer eyJhbGciOiJub25lIn0.{payload}.",
    ]
    with shop.client() as client:
        for value in bad:
            given = {"authorization": value, "idempotency-key": "k"}
            answer = client.post("/payments", json=PURCHASE, headers=given)
            assert is_problem(answer, 401), value
            assert answer.headers["www-authenticate"].startswith("Bearer")
    assert rows(shop) == before


def test_a_refused_connection_serves_the_next_request_though_the_body_came_late(
    shop: RunningShop,
) -> None:
    body = b"x" * 100
    head = f"POST /nowhere HTTP/1.1\r\nhost: shop\r\ncontent-length: {len(body)}\r\n\r\n"
    with shop.connection() as connection:
        for _ in range(3):
            connection.sendall(head.encode())
            time.sleep(0.05)  # the body in a packet of its own, after the refusal is made
            connection.sendall(body)
            answer = HTTPResponse(connection)
            answer.begin()
            assert answer.status == 404
            assert answer.getheader("connection") is None
            answer.read()


def test_a_refused_body_that_never_comes_ends_its_connection_openly(shop: RunningShop) -> None:
    with shop.connection() as connection:
        connection.sendall(b"POST /nowhere HTTP/1.1\r\nhost: shop\r\ncontent-length: 9\r\n\r\n")
        answer = HTTPResponse(connection)
        answer.begin()
        assert answer.status == 404
        assert answer.getheader("connection") == "close"


def test_unknown_routes_and_methods(shop: RunningShop) -> None:
    with shop.client() as client:
        assert is_problem(client.get("/nowhere", headers=headers(shop)), 404)
        answer = client.get("/payments", headers=headers(shop))
        assert is_problem(answer, 405)
        assert answer.headers["allow"] == "POST"


def test_huge_bodies_and_headers(shop: RunningShop) -> None:
    before = rows(shop)
    with shop.client(timeout=30) as client:
        huge = client.post("/payments", content=b"x" * (17 << 20), headers=headers(shop))
        assert is_problem(huge, 413)
        try:
            wide = client.post(
                "/payments", json=PURCHASE, headers={**headers(shop), "x-wide": "x" * 100_000}
            )
        except httpx2.RemoteProtocolError:
            pass  # the connection was closed on it, which is an answer as well
        else:
            assert wide.status_code == 431
    assert rows(shop) == before


@pytest.mark.parametrize("http2", [False, True])
@pytest.mark.parametrize(("length", "status"), [(100_000, 401), (3_000_000, 401), (3_000_000, 413)])
@pytest.mark.parametrize("sized", [False, True])
def test_a_client_that_is_refused_while_it_sends_reads_why(
    shop: RunningShop, http2: bool, length: int, status: int, sized: bool
) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(100):
            yield b"x" * (length // 100)

    given = headers(shop) if status == 413 else {"idempotency-key": "refused"}
    if sized:
        given["content-length"] = str(length)
    with shop.client(http2=http2) as client:
        assert is_problem(client.post("/payments", content=chunks(), headers=given), status)


def test_a_body_that_is_offered_is_not_asked_for_if_it_is_refused(shop: RunningShop) -> None:
    with shop.connection() as connection:
        connection.sendall(
            b"POST /payments HTTP/1.1\r\nhost: shop\r\n"
            b"content-length: 9\r\nexpect: 100-continue\r\n\r\n"
        )
        assert connection.recv(12) == b"HTTP/1.1 401"


def test_the_same_over_http_2(shop: RunningShop) -> None:
    with shop.client(http2=True) as client:
        answer = client.post("/payments", json=PURCHASE, headers=headers(shop, "over-http-2"))
        assert answer.http_version == "HTTP/2"
        assert answer.status_code == 201
        assert is_problem(client.get("/nowhere", headers=headers(shop)), 404)
