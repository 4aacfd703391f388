"""What takes an answer out of the cache: a change, an operator."""

import socket
import threading

import httpx2
import pytest
from caching import CACHED, fields, hanging, status_of
from sharing import until
from upstream import Asked, gateway

CHANGING = ("POST", "PUT", "PATCH", "DELETE")


@pytest.mark.parametrize("method", CHANGING)
def test_a_change_takes_back_what_it_is_about_and_what_its_answer_names(method: str) -> None:
    def answer(asked: Asked, connection: socket.socket) -> None:
        if asked.line.startswith(method):
            status = "500 No" if "fail" in asked.line else "201 Created"
            connection.sendall(fields("location: /items/1", status=status))
        else:
            connection.sendall(fields("cache-control: max-age=60"))

    route = {**CACHED, "methods": ("GET", *CHANGING)}
    with gateway(answer, route=route) as (client, server, _):

        def asks(path: str) -> int:
            before = len(server.asked)
            client.get(path)
            return len(server.asked) - before

        assert [asks("/items"), asks("/items/1"), asks("/items/2"), asks("/fail")] == [1, 1, 1, 1]
        assert client.request(method, "/items", content=b"a").status_code == 201
        assert [asks("/items"), asks("/items/1"), asks("/items/2")] == [1, 1, 0]
        assert client.request(method, "/fail", content=b"a").status_code == 500
        assert asks("/fail") == 0


def test_operators_purge_by_address_by_tag_and_softly() -> None:
    def answer(asked: Asked, connection: socket.socket) -> None:
        tag = (
            "surrogate-key: item-1 all"
            if "/items/1" in asked.line
            else "surrogate-key: item-2, all"
        )
        control = "cache-control: max-age=60, stale-while-revalidate=60"
        number = f"x-number: {len(server.asked)}"
        connection.sendall(fields(control, tag, number))

    with gateway(answer, route=CACHED) as (client, server, plane):

        def numbers() -> list[int]:
            answers = [client.get(path) for path in ("/items/1?a", "/items/2")]
            assert not any("surrogate-key" in each.headers for each in answers)
            return [int(each.headers["x-number"]) for each in answers]

        assert numbers() == numbers() == [1, 2]
        plane.purge(urls=["https://shop.example/items/1?a"])
        assert numbers() == numbers() == [3, 2]
        plane.purge(tags=["item-2"])
        assert numbers() == numbers() == [3, 4]
        with httpx2.Client(base_url=f"http://{plane.admin}") as operator:
            wanted = {"tags": ["all"], "soft": True}
            assert operator.post("/cache/purge", json=wanted).status_code == 401
            operator.headers["authorization"] = "Bearer c"
            assert operator.post("/cache/purge", json={"tag": "all"}).status_code == 400
            purged = operator.post("/cache/purge", json=wanted)
            assert purged.json() == {"urls": 0, "tags": 1, "all": False, "soft": True}
            assert numbers() == [3, 4], "stale, and not gone"
            until(lambda: set(numbers()) == {5, 6})
            assert 'cache_requests_total{route="/*",outcome="hit"}' in operator.get("/metrics").text
        plane.purge(everything=True)
        assert set(numbers()) == {7, 8}
        assert len(server.asked) == 8


def test_an_answer_that_was_on_its_way_when_it_was_purged_is_not_kept() -> None:
    def answer(_: Asked, connection: socket.socket) -> None:
        number = len(server.asked)
        assert number > 1 or go.wait(20)
        connection.sendall(fields("cache-control: max-age=60", f"x-number: {number}"))

    go = threading.Event()
    with gateway(answer, route=CACHED, attempt_timeout_seconds=30.0) as (client, server, plane):
        hung = hanging(plane.listen, 1)
        until(lambda: len(server.asked) == 1)
        plane.purge(urls=["/x"])
        go.set()
        assert [status_of(each) for each in hung] == [200]
        assert client.get("/x").headers["x-number"] == "2"
        assert client.get("/x").headers["x-number"] == "2"
