"""The response cache in the real data plane: what is kept, and what is sent of it."""

import json
import socket
from pathlib import Path

import httpx2
import pytest
from caching import CACHED, always, fields
from upstream import Asked, gateway

from counterfoil.gateway.config import Cache, GatewayConfig, Route
from counterfoil.gateway.data_plane import GatewayError


def test_a_fresh_answer_is_sent_again_without_asking_and_leaves_its_stub(tmp_path: Path) -> None:
    log = tmp_path / "access.jsonl"
    with gateway(always("cache-control: max-age=60"), route=CACHED, access_log=log) as (
        client,
        server,
        plane,
    ):
        first, second = client.get("/x?a=1"), client.get("/x?a=1")
        assert (first.content, second.content) == (b"abc", b"abc")
        assert first.headers["cache-status"] == "counterfoil; fwd=uri-miss; fwd-status=200; stored"
        assert second.headers["cache-status"].startswith("counterfoil; hit; ttl=")
        assert ("age" in first.headers, second.headers["age"]) == (False, "0")
        assert second.headers["date"] == first.headers["date"]
        assert second.headers["x-request-id"] != first.headers["x-request-id"]
        assert client.get("/x?a=2").headers["x-number"] == "2", "the query is a part of the key"
        assert len(server.asked) == 2
        stubs = [json.loads(line) for line in log.read_text().splitlines()]
        assert [stub["cache"] for stub in stubs] == ["miss", "hit", "miss"]
        assert [(stub["instance"], stub["attempts"]) for stub in stubs[:2]] == [("s-1", 1), ("", 0)]
        state = plane.state()["cache"]
        assert state["routes"]["/*"]["hit"] == 1
        assert (state["entries"], state["hit_rate"]) == (2, pytest.approx(1 / 3))


def test_a_route_without_a_cache_keeps_nothing(tmp_path: Path) -> None:
    log = tmp_path / "access.jsonl"
    with gateway(always("cache-control: max-age=60"), access_log=log) as (client, server, plane):
        assert "cache-status" not in client.get("/x").headers
        client.get("/x")
        assert len(server.asked) == 2
        assert json.loads(log.read_text().splitlines()[1])["cache"] == ""
        assert plane.state()["cache"] is None
        with pytest.raises(GatewayError, match="no route has a cache"):
            plane.purge(everything=True)


def test_variants_are_kept_apart_by_the_fields_that_the_answer_names() -> None:
    def answer(asked: Asked, connection: socket.socket) -> None:
        language = asked.headers.get("accept-language", "none").encode()
        connection.sendall(
            fields("cache-control: max-age=60", "vary: Accept-Language", body=language)
        )

    with gateway(answer, route=CACHED) as (client, server, _):
        for _ in range(2):
            for language in ("de", "en", "de, en"):
                answered = client.get("/x", headers={"accept-language": language})
                assert answered.text == language
        assert client.get("/x", headers={"accept-language": "EN , de"}).text == "de, en"
        assert client.get("/x").text == "none"
        assert len(server.asked) == 4


def test_what_varies_by_everything_is_not_kept() -> None:
    with gateway(always("cache-control: max-age=60", "vary: a, *"), route=CACHED) as (
        client,
        server,
        _,
    ):
        client.get("/x")
        client.get("/x")
        assert len(server.asked) == 2


def test_a_range_and_a_head_come_out_of_the_whole_answer() -> None:
    body = bytes(range(100))
    kept = always("cache-control: max-age=60", 'etag: "1"', body=body)
    with gateway(kept, route=CACHED) as (client, server, _):
        part = client.get("/y", headers={"range": "bytes=0-1"})
        assert part.content == body, "nothing is stored yet, and this service knows no ranges"
        assert client.get("/x").content == body
        asked = len(server.asked)

        def ranged(range_: str, **more: str) -> httpx2.Response:
            return client.get("/x", headers={"range": range_, **more})

        part = ranged("bytes=10-19")
        assert (part.status_code, part.content) == (206, body[10:20])
        assert part.headers["content-range"] == "bytes 10-19/100"
        assert ranged("bytes=-5").content == body[-5:]
        assert ranged("bytes=95-").content == body[95:]
        beyond = ranged("bytes=100-")
        assert (beyond.status_code, beyond.headers["content-range"]) == (416, "bytes */100")
        assert ranged("bytes=0-1,5-6").status_code == 200
        assert ranged("bytes=0-1", **{"if-range": '"1"'}).status_code == 206
        assert ranged("bytes=0-1", **{"if-range": '"2"'}).content == body
        head = client.head("/x")
        assert (head.content, head.headers["content-length"]) == (b"", "100")
        assert "hit" in head.headers["cache-status"]
        assert len(server.asked) == asked


def test_a_client_that_has_it_already_gets_a_304() -> None:
    modified = "last-modified: Wed, 01 Jan 2020 00:00:00 GMT"
    kept = always("cache-control: max-age=60", 'etag: W/"1"', modified)
    with gateway(kept, route=CACHED) as (client, server, _):
        client.get("/x")

        def asked(**conditions: str) -> httpx2.Response:
            return client.get("/x", headers={k.replace("_", "-"): v for k, v in conditions.items()})

        same = asked(if_none_match='"0", "1"')
        assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", 'W/"1"')
        assert "content-length" not in same.headers
        assert asked(if_none_match='"2"').status_code == 200
        assert asked(if_modified_since="Wed, 01 Jan 2020 00:00:00 GMT").status_code == 304
        assert asked(if_modified_since="Tue, 31 Dec 2019 00:00:00 GMT").status_code == 200
        later = "Thu, 02 Jan 2020 00:00:00 GMT"
        assert asked(if_none_match='"2"', if_modified_since=later).status_code == 200
        assert len(server.asked) == 1


def test_what_is_stale_is_asked_for_by_its_tag_and_takes_over_what_the_304_says() -> None:
    def answer(asked: Asked, connection: socket.socket) -> None:
        if asked.headers.get("if-none-match") == '"1"':
            said = ("cache-control: max-age=60", "x-number: 2", 'etag: "1"')
            head = "".join(f"{line}\r\n" for line in said)
            connection.sendall(f"HTTP/1.1 304 Not Modified\r\n{head}\r\n".encode())
            return
        connection.sendall(fields("cache-control: max-age=10", "age: 20", 'etag: "1"', "x-kept: 1"))

    with gateway(answer, route=CACHED) as (client, server, plane):
        assert client.get("/x").headers["age"] == "20"
        again = client.get("/x")
        assert (again.status_code, again.content) == (200, b"abc")
        assert (again.headers["x-number"], again.headers["x-kept"]) == ("2", "1")
        assert again.headers["cache-status"] == "counterfoil; fwd=stale; fwd-status=304; stored"
        assert client.get("/x", headers={"if-none-match": '"1"'}).status_code == 304
        assert "hit" in client.get("/x").headers["cache-status"]
        assert len(server.asked) == 2
        assert plane.state()["cache"]["routes"]["/*"]["revalidated"] == 1


def test_a_client_may_insist_and_a_route_may_be_deaf_to_it() -> None:
    service = always("cache-control: max-age=60")
    with gateway(service, route=CACHED) as (client, server, _):
        alone = client.get("/x", headers={"cache-control": "only-if-cached"})
        assert (alone.status_code, len(server.asked)) == (504, 0)
        client.get("/x")
        for control in ("no-cache", "min-fresh=90"):
            client.get("/x", headers={"cache-control": control})
        assert client.get("/x").headers["x-number"] == "3"
        client.get("/y", headers={"cache-control": "no-store"})
        assert client.get("/y").headers["x-number"] == "5"
    deaf = {"cache": Cache(request_directives=False)}
    with gateway(service, route=deaf) as (client, server, _):
        client.get("/x")
        client.get("/x", headers={"cache-control": "no-cache", "pragma": "no-cache"})
        assert len(server.asked) == 1


def test_a_targeted_field_counts_before_cache_control() -> None:
    targeted = always("cache-control: no-store", "cdn-cache-control: max-age=60")
    with gateway(targeted, route=CACHED) as (client, server, _):
        client.get("/x")
        client.get("/x")
        assert len(server.asked) == 1


def test_a_reload_keeps_what_is_stored() -> None:
    with gateway(always("cache-control: max-age=60"), route=CACHED) as (client, server, plane):
        client.get("/x")
        listen, admin = plane.listen, plane.admin
        route = Route(
            path="/*", methods=("GET",), service="s", identity=False, cache=Cache(cookies=True)
        )
        plane.reload(
            GatewayConfig(
                listen="127.0.0.1:0", admin="127.0.0.1:0", tls="off", routes=(route,), threads=1
            )
        )
        assert (plane.listen, plane.admin) == (listen, admin)
        assert "hit" in client.get("/x").headers["cache-status"]
        assert len(server.asked) == 1
