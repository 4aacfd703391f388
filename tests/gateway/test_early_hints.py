"""Early Hints of a service, on their way to clients that know them."""

import asyncio
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h2.events
import http2_upstream
import httpx2
import pytest
import test_http2_upstream
from aioquic.h3.connection import HeadersState
from aioquic.h3.events import H3Event, HeadersReceived
from clients import Http2, Http3
from secure import secure
from test_attempts import until
from upstream import Asked, fields, gateway, sized

from counterfoil.gateway.config import Route

HINT = b"HTTP/1.1 103 Early Hints\r\n"
LINK = b"link: </style.css>; rel=preload\r\n"
HINTED = {"early_hints": True}
WHOLE = b"x" * 50_000  # held whole by the gateway; one or two go into the kernel, too


class Hinting:
    """Says a hint, and answers when it is let go."""

    def __init__(self, hints: bytes = HINT + LINK + b"connection: close\r\n\r\n") -> None:
        self.hints, self.go_on = hints, threading.Event()

    def answer(self, asked: Asked, connection: socket.socket) -> None:
        connection.sendall(self.hints)
        self.go_on.wait(20)
        connection.sendall(sized(b"answer"))


def ask(client: httpx2.Client, request: bytes) -> socket.socket:
    connection = socket.create_connection((client.base_url.host, client.base_url.port or 0), 20)
    connection.sendall(request)
    return connection


def read(connection: socket.socket, end: bytes) -> bytes:
    received = b""
    while end not in received:
        part = connection.recv(65_536)
        assert part, received
        received += part
    return received


def test_a_hint_is_at_the_client_before_the_answer_is_there() -> None:
    service = Hinting()
    with gateway(service.answer, route=HINTED, attempt_timeout_seconds=20) as (client, _, _):
        for request in (
            b"GET /a HTTP/1.1\r\nhost: h\r\n\r\n",
            b"POST /a HTTP/1.1\r\nhost: h\r\ncontent-length: 100000\r\n\r\n" + b"x" * 100_000,
        ):
            service.go_on.clear()
            with ask(client, request) as connection:
                assert read(connection, b"\r\n\r\n") == HINT + LINK + b"\r\n"
                service.go_on.set()
                answer = read(connection, b"answer")
                assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
                assert answer.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize("case", ["not asked for", "HTTP/1.0", "too many", "other interim answers"])
def test_no_hint_goes_where_it_does_not_belong(case: str) -> None:
    hints, route, version = HINT + LINK + b"\r\n", HINTED, b"1.1"
    match case:
        case "not asked for":
            route = {}
        case "HTTP/1.0":
            version = b"1.0"
        case "too many":
            hints = HINT + b"x: " + b"x" * 20_000 + b"\r\n\r\n"
        case _:
            hints = b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 104 New\r\n\r\n"
    service = Hinting(hints)
    service.go_on.set()
    request = b"GET /a HTTP/%s\r\nhost: h\r\n\r\n" % version
    with (
        gateway(service.answer, route=route) as (client, _, _),
        ask(client, request) as connection,
    ):
        answer = read(connection, b"answer")
        assert answer.split()[1] == b"200"
        assert answer.count(b"HTTP/1.") == 1


def test_a_hint_never_lands_within_an_answer_that_its_client_has_not_taken_yet() -> None:
    def answer(asked: Asked, connection: socket.socket) -> None:
        connection.sendall(HINT + LINK + b"\r\n" + sized(WHOLE))

    # More than the sockets hold between them, from a client that sends all before it reads any.
    requests = 40
    with (
        gateway(answer, route=HINTED) as (client, server, _),
        socket.socket() as connection,
    ):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        connection.connect((client.base_url.host, client.base_url.port))
        connection.sendall(b"GET /a HTTP/1.1\r\nhost: h\r\n\r\n" * requests)
        until(lambda: len(server.asked) >= 2)
        lines = connection.makefile("rb")
        answers = 0
        while answers < requests:
            status = lines.readline().split()[1]
            head = fields(lines)
            if status == b"103":
                assert head == {"link": "</style.css>; rel=preload"}
            else:
                assert lines.read(int(head["content-length"])) == WHOLE
                answers += 1


def test_a_service_of_http2_may_hint_as_well() -> None:
    go_on = threading.Event()

    def answer(asked: http2_upstream.Asked, connection: http2_upstream.Connection) -> None:
        hint = [(":status", "103"), ("link", "</style.css>; rel=preload")]
        connection.h2.send_headers(asked.stream, hint)
        connection.flush()
        go_on.wait(20)
        connection.respond(asked, b"answer")

    with (
        test_http2_upstream.gateway(answer, route=HINTED) as (client, _, _),
        ask(client, b"GET /a HTTP/1.1\r\nhost: h\r\n\r\n") as connection,
    ):
        assert read(connection, b"\r\n\r\n") == HINT + LINK + b"\r\n"
        go_on.set()
        assert read(connection, b"answer").startswith(b"HTTP/1.1 200 OK\r\n")


class HintedHttp2(Http2):
    """Takes down what is said before the answer."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.hints: list[dict[bytes, bytes]] = []
        self.on_hint: Callable[[], object] = lambda: None

    def happened(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.InformationalResponseReceived):
            self.hints.append(dict(event.headers))
            self.on_hint()
        super().happened(event)


def test_clients_of_http2_are_told_before_the_answer_is_there(tmp_path: Path) -> None:
    hint = HINT + LINK + b"connection: close\r\n\r\n"
    service = Hinting(hint + hint + HINT + b"x: " + b"x" * 20_000 + b"\r\n\r\n")
    routes = (
        Route(path="/s/*", methods=("GET", "POST"), service="s", identity=False, early_hints=True),
        Route(path="/untold", methods=("GET",), service="s", identity=False),
    )

    async def scenario(port: int, authority: Path) -> None:
        async with HintedHttp2.to(port, authority) as client:
            assert isinstance(client, HintedHttp2)
            client.on_hint = service.go_on.set
            for method, body in (("GET", b""), ("POST", b"x" * 100_000)):
                service.go_on.clear()
                client.hints.clear()
                answer = await client.ask(method, "/s/a", body=body)
                assert (answer.status, answer.body) == (200, b"answer")
                # One too many is left out.
                assert [each[b":status"] for each in client.hints] == [b"103", b"103"]
                assert all(
                    each == {b":status": b"103", b"link": b"</style.css>; rel=preload"}
                    for each in client.hints
                )
            client.hints.clear()
            answer = await client.ask("GET", "/untold")
            assert (answer.status, answer.body, client.hints) == (200, b"answer", [])

    with secure(tmp_path, service.answer, routes=routes) as gateway:
        asyncio.run(scenario(gateway.port, gateway.authority))


def _is_interim(event: HeadersReceived) -> bool:
    return dict(event.headers)[b":status"].startswith(b"1")


class HintedHttp3(Http3):
    """aioquic takes what follows a hint for a trailer unless it is told."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.hints: list[dict[bytes, bytes]] = []
        self.on_hint: Callable[[], object] = lambda: None

    def happened(self, event: H3Event) -> None:
        if isinstance(event, HeadersReceived) and _is_interim(event):
            self.hints.append(dict(event.headers))
            self.h3._stream[event.stream_id].headers_recv_state = HeadersState.INITIAL
            self.on_hint()
        else:
            super().happened(event)


def test_clients_of_http3_are_told_too(tmp_path: Path) -> None:
    service = Hinting()
    route = Route(path="/s/*", methods=("GET",), service="s", identity=False, early_hints=True)

    async def scenario(port: int, authority: Path) -> None:
        async with HintedHttp3.to(port, authority) as client:
            assert isinstance(client, HintedHttp3)
            client.on_hint = service.go_on.set
            answer = await client.ask("GET", "/s/a")
            assert (answer.status, answer.body) == (200, b"answer")
            assert [hint[b"link"] for hint in client.hints] == [b"</style.css>; rel=preload"]

    with secure(tmp_path, service.answer, routes=(route,)) as gateway:
        asyncio.run(scenario(gateway.port, gateway.authority))
