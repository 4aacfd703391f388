"""Compressed answers: what goes out in which coding, what is left alone, and what a client that
waits, reads slowly or knows no coding sees of it."""

import asyncio
import itertools
import json
import socket
import sys
import threading
import zlib
from collections.abc import Callable, Generator

import brotli
import pytest
from clients import Answer, Http1, Http2, Http3
from secure import Secure, secure
from test_memory import connect
from test_protocols import until
from upstream import OK, Asked, chunked, gateway, sized

from counterfoil.gateway.compression import Compression
from counterfoil.gateway.config import Cache, Route
from counterfoil.gateway.services import Upstream

if sys.version_info >= (3, 14):
    from compression.zstd import ZstdDecompressor
else:
    from backports.zstd import ZstdDecompressor

CODINGS = ("gzip", "br", "zstd")
SMALL = json.dumps([{"id": number, "name": f"item {number}"} for number in range(200)]).encode()
LARGE = b"".join(b"<p>paragraph %d of a long page</p>\n" % number for number in range(10_000))
COMPRESSED = {"compression": Compression()}
JSON = b"content-type: application/json\r\n"


def decoded(coding: str, body: bytes) -> tuple[bytes, bool]:
    """What is readable of it so far, and whether that is all."""
    match coding:
        case "gzip":
            inflating = zlib.decompressobj(31)
            return inflating.decompress(body), inflating.eof
        case "br":
            reading = brotli.Decompressor()
            return reading.process(body), reading.is_finished()
        case "zstd":
            unpacking = ZstdDecompressor()
            return unpacking.decompress(body), unpacking.eof
        case _:
            return body, True


def typed(kind: bytes, whole: bytes) -> bytes:
    return whole.replace(b"\r\n", b"\r\ncontent-type: %s\r\n" % kind, 1)


class Site:
    """A service with pages of several sizes and framings, events, and an answer that breaks off."""

    def __init__(self) -> None:
        self.go_on = threading.Event()

    def answer(self, asked: Asked, connection: socket.socket) -> bool | None:
        match asked.line.split()[1]:
            case "/s/small":
                whole = typed(b"application/json", sized(SMALL))
            case "/s/middle":
                whole = typed(b"text/html", sized(LARGE[:200_000]))
            case "/s/large":
                whole = typed(b"text/html; charset=utf-8", sized(LARGE))
            case "/s/chunked":
                whole = typed(b"text/html", chunked(LARGE, LARGE))
            case "/s/broken":
                connection.sendall(typed(b"text/html", sized(LARGE))[:-1])
                return False
            case _:
                head = OK + b"content-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
                connection.sendall(head + b"9\r\ndata: 1\n\n\r\n")
                self.go_on.wait(20)
                whole = b"9\r\ndata: 2\n\n\r\n0\r\n\r\n"
        if asked.line.startswith("HEAD"):
            whole = whole[: whole.index(b"\r\n\r\n") + 4]
        connection.sendall(whole)
        return None


BODIES = {
    "/s/small": SMALL,
    "/s/middle": LARGE[:200_000],
    "/s/large": LARGE,
    "/s/chunked": LARGE + LARGE,
}


@pytest.fixture(scope="module")
def site() -> Site:
    return Site()


@pytest.fixture(scope="module")
def gate(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Generator[Secure, None, None]:
    route = Route(
        path="/s/*",
        methods=("GET", "HEAD"),
        service="s",
        identity=False,
        compression=Compression(),
    )
    folder, service = tmp_path_factory.mktemp("tls"), Upstream(attempt_timeout_seconds=20.0)
    with secure(folder, site.answer, service=service, routes=(route,)) as gate:
        yield gate


@pytest.fixture(params=[Http1, Http2, Http3], ids=lambda client: client.name)
def client(request: pytest.FixtureRequest) -> type[Http1] | type[Http2] | type[Http3]:
    return request.param


def test_each_coding_gives_back_what_the_service_sent(
    gate: Secure, client: type[Http1] | type[Http2] | type[Http3]
) -> None:
    async def scenario() -> None:
        async with client.to(gate.port, gate.authority) as connection:
            for coding, (path, body) in itertools.product(CODINGS, BODIES.items()):
                answer = await connection.ask("GET", path, [("accept-encoding", coding)])
                assert answer.headers["content-encoding"] == coding
                assert answer.headers["vary"] == "accept-encoding"
                assert len(answer.body) < len(body) / 3
                assert decoded(coding, answer.body) == (body, True)
                length = answer.headers.get("content-length")
                assert length == (str(len(answer.body)) if path == "/s/small" else None)
            plain = await connection.ask("GET", "/s/large")
            assert "content-encoding" not in plain.headers
            assert plain.headers["vary"] == "accept-encoding"
            assert plain.headers["content-length"] == str(len(LARGE))
            assert plain.body == LARGE

    asyncio.run(scenario())


def test_a_head_request_gets_the_head_of_the_compressed_answer(
    gate: Secure, client: type[Http1] | type[Http2] | type[Http3]
) -> None:
    async def scenario() -> None:
        async with client.to(gate.port, gate.authority) as connection:
            for path in ("/s/small", "/s/large"):
                answer = await connection.ask("HEAD", path, [("accept-encoding", "gzip")])
                assert (answer.status, answer.body) == (200, b"")
                assert answer.headers["content-encoding"] == "gzip"
                assert answer.headers["vary"] == "accept-encoding"
                assert "content-length" not in answer.headers
            plain = await connection.ask("HEAD", "/s/large")
            assert plain.headers["content-length"] == str(len(LARGE))

    asyncio.run(scenario())


def test_an_event_is_at_the_client_before_the_service_says_the_next(
    site: Site, gate: Secure, client: type[Http1] | type[Http2] | type[Http3]
) -> None:
    async def first(connection: Http1 | Http2 | Http3, coding: str) -> bytes:
        """What can be read while the service waits."""
        if isinstance(connection, Http1):
            await connection.reader.readuntil(b"\r\n\r\n")
            body = b""
            while decoded(coding, body)[0] != b"data: 1\n\n":
                size = int(await connection.reader.readuntil(b"\r\n"), 16)
                body += (await connection.reader.readexactly(size + 2))[:-2]
            return decoded(coding, body)[0]
        answers = connection.answers

        def latest() -> Answer:
            return answers[max(answers)] if answers else Answer()

        await until(lambda: decoded(coding, latest().body)[0] == b"data: 1\n\n")
        return decoded(coding, latest().body)[0]

    async def scenario(coding: str) -> None:
        site.go_on.clear()
        async with client.to(gate.port, gate.authority) as connection:
            headers = [("accept-encoding", coding)]
            if isinstance(connection, Http1):
                head = f"GET /s/events HTTP/1.1\r\nhost: h\r\naccept-encoding: {coding}\r\n\r\n"
                connection.writer.write(head.encode())
                async with asyncio.timeout(20):
                    assert await first(connection, coding) == b"data: 1\n\n"
                site.go_on.set()
                assert (await connection.reader.readuntil(b"\r\n0\r\n\r\n"))[-5:] == b"0\r\n\r\n"
                return
            asking = asyncio.create_task(connection.ask("GET", "/s/events", headers))
            assert await first(connection, coding) == b"data: 1\n\n"
            site.go_on.set()
            answer = await asking
            assert answer.headers["content-encoding"] == coding
            assert decoded(coding, answer.body) == (b"data: 1\n\ndata: 2\n\n", True)

    for coding in CODINGS:
        asyncio.run(scenario(coding))


def test_an_answer_that_breaks_off_has_no_end(
    gate: Secure, client: type[Http1] | type[Http2] | type[Http3]
) -> None:
    async def scenario(coding: str) -> None:
        async with client.to(gate.port, gate.authority) as connection:
            headers = [("accept-encoding", coding)]
            if isinstance(connection, Http1):
                with pytest.raises(asyncio.IncompleteReadError):
                    await connection.ask("GET", "/s/broken", headers)
                return
            answer = await connection.ask("GET", "/s/broken", headers)
            assert answer.reset is not None
            assert not decoded(coding, answer.body)[1]

    for coding in CODINGS:
        asyncio.run(scenario(coding))


def test_a_common_client_reads_it_without_being_told() -> None:
    def answer(asked: Asked, connection: socket.socket) -> None:
        connection.sendall(typed(b"text/html", sized(LARGE)))

    with gateway(answer, route=COMPRESSED) as (client, _, _plane):
        for coding in CODINGS:
            found = client.get("/x", headers={"accept-encoding": coding})
            assert found.headers["content-encoding"] == coding
            assert found.content == LARGE
        assert client.get("/x").headers["content-encoding"] == "zstd"
        weighed = client.get("/x", headers={"accept-encoding": "zstd;q=0.5, gzip;q=0.8, br;q=0"})
        assert weighed.headers["content-encoding"] == "gzip"


def test_a_route_offers_what_it_is_told_to_of_the_types_that_it_is_told() -> None:
    def answer(asked: Asked, connection: socket.socket) -> None:
        kind = asked.line.split()[1].removeprefix("/").encode()
        connection.sendall(typed(kind, sized(SMALL[:100])))

    ours = Compression(encodings=("br", "gzip"), types=("application/*+json",), minimum_bytes=100)
    with gateway(answer, route={"compression": ours}) as (client, _, _plane):
        found = client.get("/application/LD+JSON;q=1")
        assert found.headers["content-encoding"] == "br"
        assert found.content == SMALL[:100]
        for other in ("/application/json", "/application/json+x", "/text/html", "/text/x+json"):
            assert "content-encoding" not in client.get(other).headers
    with gateway(answer, route={}) as (client, _, _plane):
        found = client.get("/text/html")
        assert "content-encoding" not in found.headers
        assert "vary" not in found.headers


LEFT_ALONE: dict[str, tuple[bytes, dict[str, str], bool]] = {
    "encoded already": (b"content-encoding: gzip\r\n", {}, False),
    "not to be changed": (b"Cache-Control: max-age=1, No-Transform\r\n", {}, False),
    "not wanted changed": (b"", {"cache-control": "no-transform"}, True),
    "vouched for": (b"content-digest: sha-256=:YQ==:\r\n", {}, False),
    "a client that reads others": (b"", {"accept-encoding": "deflate, gzip;q=0"}, True),
    "a client that says that it reads none": (b"", {"accept-encoding": ""}, True),
}


@pytest.mark.parametrize("case", LEFT_ALONE)
def test_what_is_not_to_be_compressed_goes_out_as_it_came(case: str) -> None:
    field, asking, varies = LEFT_ALONE[case]

    def answer(_: Asked, connection: socket.socket) -> None:
        connection.sendall(sized(SMALL).replace(b"\r\n", b"\r\n" + JSON + field, 1))

    with gateway(answer, route=COMPRESSED) as (client, _, _plane):
        headers = {"accept-encoding": "gzip, br"} | asking
        with client.stream("GET", "/x", headers=headers) as found:
            assert b"".join(found.iter_raw()) == SMALL
        assert found.headers.get("content-encoding") == ("gzip" if b"gzip" in field else None)
        assert found.headers["content-length"] == str(len(SMALL))
        assert ("vary" in found.headers) == varies


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (b"image/png", SMALL),
        (b"application/grpc+json", SMALL),
        (b"application/grpc-web+json", SMALL),
        (b"application/json", SMALL[:1023]),
        (b"nonsense", SMALL),
    ],
)
def test_other_types_and_small_answers_are_not_compressed(kind: bytes, body: bytes) -> None:
    def answer(_: Asked, connection: socket.socket) -> None:
        connection.sendall(typed(kind, sized(body)))

    everything = Compression(types=("application/*", "text/*"))
    with gateway(answer, route={"compression": everything}) as (client, _, _plane):
        found = client.get("/x")
        assert found.content == body
        assert "content-encoding" not in found.headers
        assert "vary" not in found.headers


def test_parts_and_answers_without_a_body_are_not_compressed() -> None:
    def answer(asked: Asked, connection: socket.socket) -> None:
        if "range" in asked.headers:
            connection.sendall(
                b"HTTP/1.1 206 Partial Content\r\ncontent-range: bytes 0-4999/90000\r\n"
                + JSON
                + b"content-length: 5000\r\n\r\n"
                + SMALL[:5000]
            )
        else:
            connection.sendall(b"HTTP/1.1 204 No Content\r\n" + JSON + b"\r\n")

    with gateway(answer, route=COMPRESSED) as (client, _, _plane):
        part = client.get("/x", headers={"range": "bytes=0-4999"})
        assert (part.status_code, part.content) == (206, SMALL[:5000])
        none = client.get("/x")
        assert (none.status_code, none.content) == (204, b"")
        for found in (part, none):
            assert "content-encoding" not in found.headers
        assert part.headers["vary"] == "accept-encoding"  # as that which it is a part of
        assert "vary" not in none.headers


def test_the_field_that_an_answer_varies_by_is_said_once_beside_others() -> None:
    def answer(asked: Asked, connection: socket.socket) -> None:
        vary = asked.headers["x-vary"].encode()
        connection.sendall(
            sized(SMALL).replace(b"\r\n", b"\r\n" + JSON + b"vary: %s\r\n" % vary, 1)
        )

    with gateway(answer, route=COMPRESSED) as (client, _, _plane):
        for said, becomes in [
            ("origin", "origin, accept-encoding"),
            ("Origin, Accept-Encoding", "Origin, Accept-Encoding"),
            ("*", "*"),
        ]:
            assert client.get("/x", headers={"x-vary": said}).headers["vary"] == becomes


def test_errors_of_the_service_and_of_the_gateway_are_compressed_too() -> None:
    def answer(_: Asked, connection: socket.socket) -> None:
        body = sized(SMALL).replace(b"200 OK", b"404 Not Found", 1)
        connection.sendall(typed(b"application/problem+json", body))

    route = {"compression": Compression(minimum_bytes=1)}
    with gateway(answer, route=route, attempts=1) as (client, _, plane):
        missing = client.get("/x")
        assert (missing.status_code, missing.content) == (404, SMALL)
        assert missing.headers["content-encoding"] == "zstd"
        plane.set_endpoints("s", [])
        away = client.get("/x")
        assert away.status_code == 503
        assert away.json()["status"] == 503
        call = client.post("/x", headers={"content-type": "application/grpc"})
        assert (call.status_code, call.headers["grpc-status"]) == (200, "14")
        assert "content-encoding" not in call.headers


def tagged(tag: bytes) -> Callable[[Asked, socket.socket], None]:
    """A service that compares tags as RFC 9110 has it."""

    def answer(asked: Asked, connection: socket.socket) -> None:
        fields = b"etag: %s\r\naccept-ranges: bytes\r\ncache-control: max-age=60\r\n" % tag
        if tag in asked.headers.get("if-none-match", "").encode():
            connection.sendall(b"HTTP/1.1 304 Not Modified\r\n" + fields + b"\r\n")
        else:
            connection.sendall(sized(SMALL).replace(b"\r\n", b"\r\n" + JSON + fields, 1))

    return answer


@pytest.mark.parametrize("cache", [None, Cache()], ids=["asked each time", "out of the cache"])
def test_a_client_that_has_it_already_gets_a_304_by_the_weak_tag(cache: Cache | None) -> None:
    with gateway(tagged(b'"v1"'), route=COMPRESSED | {"cache": cache}) as (client, server, _):
        plain = client.get("/x", headers={"accept-encoding": "identity"})
        assert plain.headers["etag"] == '"v1"'
        for coding in CODINGS:
            asking = {"accept-encoding": coding}
            found = client.get("/x", headers=asking)
            assert found.content == SMALL
            assert found.headers["etag"] == 'W/"v1"'
            assert "accept-ranges" not in found.headers
            again = client.get("/x", headers=asking | {"if-none-match": found.headers["etag"]})
            assert (again.status_code, again.content) == (304, b"")
            assert again.headers["etag"] == 'W/"v1"'
            assert again.headers["vary"] == "accept-encoding"
        again = client.get("/x", headers={"if-none-match": '"v1"'})
        assert (again.status_code, again.headers["etag"]) == (304, '"v1"')
        head = client.head("/x", headers={"accept-encoding": "gzip"})
        assert (head.headers["etag"], head.headers["content-encoding"]) == ('W/"v1"', "gzip")
        if cache:
            assert len(server.asked) == 1


def test_a_weak_tag_stays_as_it_is() -> None:
    with gateway(tagged(b'W/"v1"'), route=COMPRESSED) as (client, _, _plane):
        assert client.get("/x").headers["etag"] == 'W/"v1"'


@pytest.mark.parametrize("body", [SMALL, LARGE], ids=["small", "large"])
def test_the_cache_keeps_one_answer_for_clients_of_all_codings(body: bytes) -> None:
    def answer(asked: Asked, connection: socket.socket) -> None:
        fields = JSON + b"cache-control: max-age=60\r\n"
        connection.sendall(sized(body).replace(b"\r\n", b"\r\n" + fields, 1))

    with gateway(answer, route=COMPRESSED | {"cache": Cache()}) as (client, server, plane):
        for coding in (*CODINGS, "identity"):
            found = client.get("/x", headers={"accept-encoding": coding})
            assert found.content == body
            assert found.headers.get("content-encoding", "identity") == coding
        part = client.get("/x", headers={"range": "bytes=10-5009"})
        assert (part.status_code, part.content) == (206, body[10:5010])
        assert "content-encoding" not in part.headers
        assert len(server.asked) == 1
        assert 0 < plane.state()["cache"]["bytes"] - len(body) < 4_000


def test_trailers_come_after_the_end_of_a_compressed_answer() -> None:
    def answer(_: Asked, connection: socket.socket) -> None:
        head = OK + JSON + b"trailer: x-sum\r\ntransfer-encoding: chunked\r\n\r\n"
        chunk = b"%x\r\n%s\r\n" % (len(SMALL), SMALL)
        connection.sendall(head + chunk + b"0\r\nx-sum: 1\r\n\r\n")

    with gateway(answer, route=COMPRESSED) as (_, _, plane), connect(plane.listen) as client:
        client.sendall(
            b"GET /x HTTP/1.1\r\nhost: h\r\nte: trailers\r\nconnection: te, close\r\n"
            b"accept-encoding: gzip\r\n\r\n"
        )
        received = b"".join(iter(lambda: client.recv(65_536), b""))
    head, _, chunks = received.partition(b"\r\n\r\n")
    assert b"content-encoding: gzip" in head
    assert chunks.endswith(b"\r\n0\r\nx-sum: 1\r\n\r\n")


def test_a_client_of_http10_gets_an_answer_whose_end_it_can_see() -> None:
    def answer(_: Asked, connection: socket.socket) -> None:
        connection.sendall(typed(b"text/html", sized(LARGE)))

    with gateway(answer, route=COMPRESSED) as (_, _, plane), connect(plane.listen) as client:
        client.sendall(b"GET /x HTTP/1.0\r\nhost: h\r\naccept-encoding: gzip\r\n\r\n")
        received = b"".join(iter(lambda: client.recv(65_536), b""))
    head, _, body = received.partition(b"\r\n\r\n")
    assert b"content-length: %d" % len(LARGE) in head.lower()
    assert body == LARGE


def test_an_upgraded_connection_carries_what_is_sent() -> None:
    def answer(_: Asked, connection: socket.socket) -> bool:
        connection.sendall(
            b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
            + JSON
            + b"\r\n"
            + SMALL
        )
        return False

    with gateway(answer, route=COMPRESSED) as (_, _, plane), connect(plane.listen) as client:
        client.sendall(
            b"GET /x HTTP/1.1\r\nhost: h\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
            b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            b"accept-encoding: gzip\r\n\r\n"
        )
        received = b"".join(iter(lambda: client.recv(65_536), b""))
    head, _, carried = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 ")
    assert b"content-encoding" not in head
    assert carried == SMALL


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"encodings": ()}, "encodings"),
        ({"encodings": ("gzip", "gzip")}, "each once"),
        ({"types": ("text",)}, "is no type"),
        ({"types": ("*/*",)}, "is no type"),
        ({"types": ()}, "types are empty"),
        ({"minimum_bytes": 0}, "minimum_bytes"),
    ],
)
def test_a_compression_that_can_not_be_is_refused_with_what_to_set(
    wrong: dict[str, object], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        Compression(**wrong)  # type: ignore[arg-type]
