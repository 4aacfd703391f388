"""HTTP/2 to instances: what goes on, what a connection holds, and what may be sent again."""

import threading
import time
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import h2.errors
import h2.events
import httpx2
import pytest
from h2.settings import SettingCodes
from http2_upstream import Asked, Connection, Server, serving
from test_attempts import until
from test_http2_clients import Client

from counterfoil.gateway.config import GatewayConfig, Route
from counterfoil.gateway.data_plane import DataPlane
from counterfoil.gateway.services import Upstream

LARGE = bytes(range(256)) * 4_096  # 1 MiB


@contextmanager
def gateway(
    answer: Callable[[Asked, Connection], None],
    *,
    at_head: Callable[[Asked, Connection], None] | None = None,
    settings: dict[SettingCodes, int] | None = None,
    takes: bool = True,
    route: Mapping[str, Any] | None = None,
    **protection: Any,
) -> Generator[tuple[httpx2.Client, Server, DataPlane], None, None]:
    ours = {"path": "/*", "methods": ("GET", "HEAD", "POST"), "service": "s", "identity": False}
    config = GatewayConfig(
        listen="127.0.0.1:0",
        admin="127.0.0.1:0",
        tls="off",
        routes=(Route(**ours | dict(route or {})),),
        services={"s": Upstream(protocol="h2c", **protection)},
        request_body_limit=0,
    )
    plane = DataPlane(config, access_log=None, admin_credential="c")
    server = Server(answer, at_head=at_head, settings=settings or {}, takes=takes)
    with ExitStack() as stack:
        stack.enter_context(serving(server))
        plane.set_endpoints("s", [("s-1", server.address)])
        yield (
            stack.enter_context(httpx2.Client(base_url=f"http://{plane.listen}", timeout=20)),
            server,
            plane,
        )
        plane.drain(5.0)


def good(asked: Asked, connection: Connection) -> None:
    connection.respond(asked, b"good")


def breaker(plane: DataPlane) -> str:
    return plane.state()["services"]["s"]["endpoints"][0]["breaker"]


def test_what_an_instance_gets_names_it_and_says_nothing_of_the_clients_connection() -> None:
    with gateway(good) as (client, server, _):
        given = [
            ("connection", "keep-alive, x-mine"),
            ("x-mine", "1"),
            ("keep-alive", "5"),
            ("te", "trailers, gzip"),
            ("cookie", "a=1"),
            ("authorization", "Bearer t"),
            ("x-counterfoil-tenant", "forged"),
            ("x-other", "2"),
        ]
        assert client.post("/a?b=c", headers=given, content=b"body").content == b"good"
        seen = server.asked[0].headers
        assert (seen[":method"], seen[":path"]) == ("POST", "/a?b=c")
        assert (seen[":scheme"], seen[":authority"]) == ("http", server.address)
        assert (seen["te"], seen["x-other"], seen["cookie"]) == ("trailers", "2", "a=1")
        assert (seen["content-length"], server.asked[0].body) == ("4", b"body")
        unwanted = {"connection", "keep-alive", "host", "transfer-encoding", "x-mine", "upgrade"}
        assert not seen.keys() & (unwanted | {"authorization", "x-counterfoil-tenant"})


def test_answers_come_back_as_they_are() -> None:
    def answer(asked: Asked, connection: Connection) -> None:
        match asked.headers[":path"]:
            case "/none":
                connection.respond(asked, status="204")
            case "/head":
                connection.respond(asked, content_length="5")
            case "/length":
                connection.respond(asked, b"12345", content_length="5", x_app="1")
            case _:
                connection.respond(asked, b"1", {"x-sum": "7", "set-cookie": "no"})

    with gateway(answer) as (client, _, _):
        assert client.get("/none").status_code == 204
        sized = client.get("/length")
        assert (sized.content, sized.headers["content-length"]) == (b"12345", "5")
        assert client.head("/head").headers["content-length"] == "5"
        assert client.get("/trailers").content == b"1"


def test_an_upgrade_is_not_offered_to_a_service_of_http2() -> None:
    with gateway(good) as (client, server, plane):
        asked = {"connection": "upgrade", "upgrade": "websocket", "sec-websocket-version": "13"}
        assert client.get("/x", headers=asked).status_code == 200
        assert "upgrade" not in server.asked[0].headers
        assert plane.state()["services"]["s"]["tunnels"] == 0


def test_a_request_beyond_the_last_one_of_a_goaway_is_sent_again_whatever_its_method() -> None:
    def answer(asked: Asked, connection: Connection) -> None:
        if connection.number or asked.stream == 1:
            good(asked, connection)
        else:
            connection.h2.close_connection(last_stream_id=1)
            connection.flush()

    with gateway(answer, attempts=1, breaker_failures=1) as (client, server, plane):
        assert client.get("/first").content == b"good"
        assert client.post("/x", content=b"body").content == b"good"
        assert [asked.body for asked in server.asked] == [b"", b"body", b"body"]
        assert len(server.connections) == 2
        assert breaker(plane) == "closed"


def test_an_instance_that_ends_all_of_its_connections_at_once_costs_nothing() -> None:
    together = threading.Barrier(5)

    def answer(asked: Asked, connection: Connection) -> None:
        if asked.headers[":path"] == "/together":
            together.wait(20)
        good(asked, connection)

    settings = {SettingCodes.MAX_CONCURRENT_STREAMS: 1}
    patience: dict[str, Any] = {"attempt_timeout_seconds": 20, "breaker_failures": 1}
    with gateway(answer, settings=settings, attempts=1, **patience) as (client, server, plane):
        with ThreadPoolExecutor(4) as pool:
            under_way = [pool.submit(client.get, "/together") for _ in range(4)]
            together.wait(20)
            assert all(each.result().is_success for each in under_way)
        for connection in list(server.connections):
            with connection.lock:
                connection.h2.close_connection()
                connection.flush()
        assert client.post("/x", content=b"body").content == b"good"
        assert len(server.connections) == 5
        assert breaker(plane) == "closed"


def test_a_connection_that_ended_while_idle_costs_nothing() -> None:
    with gateway(good, attempts=1) as (client, server, _):
        for number in range(3):
            assert client.post("/x", content=b"body").content == b"good"
            connection = server.connections[number]
            with connection.lock:
                connection.h2.close_connection()
                connection.cut() if number else connection.flush()
        assert len(server.connections) == 3


def test_a_refused_stream_is_sent_again_and_paid_for() -> None:
    def answer(asked: Asked, connection: Connection) -> None:
        if len(server.asked) == 1:
            connection.h2.reset_stream(asked.stream, h2.errors.ErrorCodes.REFUSED_STREAM)
        else:
            good(asked, connection)

    with gateway(answer) as (client, server, _):
        assert client.post("/x", content=b"body").content == b"good"
        assert [asked.body for asked in server.asked] == [b"body", b"body"]
        assert len(server.connections) == 1
    with gateway(answer, attempts=1) as (client, server, _):
        assert client.post("/x", content=b"body").status_code == 502


@pytest.mark.parametrize("how", ["goaway", "reset", "cut"])
def test_a_request_that_may_have_been_carried_out_is_not_sent_again(how: str) -> None:
    def answer(asked: Asked, connection: Connection) -> None:
        if len(server.asked) > 1:
            return good(asked, connection)
        match how:
            case "goaway":
                connection.h2.close_connection(last_stream_id=asked.stream)
                connection.cut()
            case "reset":
                connection.h2.reset_stream(asked.stream, h2.errors.ErrorCodes.INTERNAL_ERROR)
            case _:
                connection.cut()
        return None

    with gateway(answer) as (client, server, _):
        assert client.post("/x", content=b"body").status_code == 502
        assert len(server.asked) == 1
        server.asked.clear()
        assert client.get("/x").content == b"good"  # idempotent
        assert len(server.asked) == 2


def test_no_more_streams_are_open_than_an_instance_allows() -> None:
    most, lock = [0], threading.Lock()
    go_on = threading.Event()

    def answer(asked: Asked, connection: Connection) -> None:
        with lock:
            most[0] = max(most[0], connection.h2.open_inbound_streams)

        def later() -> None:
            go_on.wait(20)
            with connection.lock:
                good(asked, connection)

        threading.Thread(target=later, daemon=True).start()

    settings = {SettingCodes.MAX_CONCURRENT_STREAMS: 2}
    with gateway(answer, settings=settings, attempt_timeout_seconds=20) as (client, server, _):
        with ThreadPoolExecutor(20) as pool:
            under_way = [pool.submit(client.get, "/x") for _ in range(20)]
            until(lambda: len(server.asked) == 8)
            go_on.set()
            assert all(each.result().content == b"good" for each in under_way)
        assert (most[0], len(server.connections)) == (2, 4)


def test_a_body_that_an_instance_makes_no_room_for_ends_in_time() -> None:
    with gateway(good, takes=False, attempt_timeout_seconds=0.3, attempts=1) as (client, server, _):
        began = time.monotonic()
        assert client.post("/x", content=LARGE).status_code == 504
        assert time.monotonic() - began < 10
        until(lambda: server.reset == [server.begun[0].stream])
        assert len(server.asked) == 0


def test_an_instance_may_refuse_a_body_before_its_end() -> None:
    def refuse(asked: Asked, connection: Connection) -> None:
        connection.respond(asked, b"too large", status="413")

    with gateway(good, at_head=refuse, takes=False) as (client, server, _):
        refused = client.post("/x", content=LARGE)
        assert (refused.status_code, refused.content) == (413, b"too large")
        until(lambda: server.reset)
        assert not server.asked


def test_a_client_that_goes_ends_its_stream_and_no_other() -> None:
    seen = threading.Event()

    def answer(asked: Asked, connection: Connection) -> None:
        if asked.headers[":path"] == "/slow":
            seen.set()
        else:
            good(asked, connection)

    with gateway(answer, attempt_timeout_seconds=20) as (client, server, _):
        with pytest.raises(httpx2.ReadTimeout):
            client.get("/slow", timeout=0.3)
        assert seen.is_set()
        until(lambda: server.reset == [server.begun[0].stream])
        assert client.get("/x").content == b"good"
        assert len(server.connections) == 1


@pytest.mark.parametrize("status", ["204", "304"])
def test_an_answer_that_has_no_body_has_none_whatever_its_instance_sends(status: str) -> None:
    def answer(asked: Asked, connection: Connection) -> None:
        connection.respond(asked, b"none of its business", status=status)

    with gateway(answer) as (_, _, plane), Client(plane) as client:
        stream = client.ask("GET", "/x")
        client.until(lambda: client.all(h2.events.StreamEnded, stream))
        assert client.status(stream) == status
        assert not client.all(h2.events.DataReceived)
