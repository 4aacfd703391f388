"""What RFC 9114 and RFC 9204 ask of a server whose client does not keep to them.

There is no public suite as h2spec is for HTTP/2. Each case writes bytes on streams, and names the
error that the RFC does.
"""

import asyncio
import socket
from collections.abc import Callable, Generator

import pytest
from clients import Http3
from secure import Secure, secure
from upstream import Asked, sized

DATA, HEADERS, CANCEL_PUSH, SETTINGS, PUSH_PROMISE, GOAWAY, MAX_PUSH_ID = 0, 1, 3, 4, 5, 7, 13
STREAM_CREATION, CLOSED_CRITICAL, FRAME_UNEXPECTED, FRAME_ERROR = 0x103, 0x104, 0x105, 0x106
ID_ERROR, SETTINGS_ERROR, MISSING_SETTINGS = 0x108, 0x109, 0x10A
REQUEST_INCOMPLETE, MESSAGE_ERROR, DECOMPRESSION_FAILED = 0x10D, 0x10E, 0x200


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Generator[Secure, None, None]:
    def answer(asked: Asked, connection: socket.socket) -> None:
        connection.sendall(sized(asked.body))

    with secure(tmp_path_factory.mktemp("tls"), answer) as gateway:
        yield gateway


def varint(number: int) -> bytes:
    if number < 0x40:
        return bytes([number])
    if number < 0x4000:
        return (number | 0x4000).to_bytes(2)
    return (number | 0x8000_0000).to_bytes(4)


def frame(kind: int, content: bytes = b"") -> bytes:
    return varint(kind) + varint(len(content)) + content


def literal(name: bytes, value: bytes) -> bytes:
    """A field by QPACK, by its name and without Huffman (RFC 9204, section 4.5.6)."""
    first = bytes([0x20 | len(name)]) if len(name) < 7 else bytes([0x27, len(name) - 7])
    second = bytes([len(value)]) if len(value) < 127 else bytes([0x7F, len(value) - 127])
    return first + name + second + value


METHOD, SCHEME, PATH = (b":method", b"GET"), (b":scheme", b"https"), (b":path", b"/s/a")
AUTHORITY = (b":authority", b"localhost")
REQUEST = (METHOD, SCHEME, AUTHORITY, PATH)


def head(*fields: tuple[bytes, bytes]) -> bytes:
    section = b"\0\0" + b"".join(literal(name, value) for name, value in fields)
    return frame(HEADERS, section)


def on_control(*frames: bytes) -> Callable[[Http3], None]:
    """Write on the control stream, where the settings have been sent already."""

    def write(client: Http3) -> None:
        assert client.h3._local_control_stream_id is not None
        client._quic.send_stream_data(client.h3._local_control_stream_id, b"".join(frames))

    return write


def on_new(kind: int, content: bytes = b"", *, end: bool = False) -> Callable[[Http3], None]:
    """Open a stream of one direction."""

    def write(client: Http3) -> None:
        stream = client._quic.get_next_available_stream_id(is_unidirectional=True)
        client._quic.send_stream_data(stream, varint(kind) + content, end)

    return write


def on_request(content: bytes, *, end: bool = True) -> Callable[[Http3], None]:
    """Open a stream of a request."""

    def write(client: Http3) -> None:
        stream = client._quic.get_next_available_stream_id()
        client.answers[stream] = client.last
        client._quic.send_stream_data(stream, content, end)

    return write


def close_control(client: Http3) -> None:
    assert client.h3._local_control_stream_id is not None
    client._quic.send_stream_data(client.h3._local_control_stream_id, b"", end_stream=True)


CONNECTION_ERRORS = {
    "data before headers": (on_request(frame(DATA, b"abc")), FRAME_UNEXPECTED),
    "a push promise": (on_request(frame(PUSH_PROMISE, b"\0")), FRAME_UNEXPECTED),
    "settings with a request": (on_request(frame(SETTINGS)), FRAME_UNEXPECTED),
    "settings within a request": (on_request(head(*REQUEST) + frame(SETTINGS)), FRAME_UNEXPECTED),
    "a frame of HTTP/2 (PRIORITY)": (on_request(frame(2)), FRAME_UNEXPECTED),
    "a frame of HTTP/2 (PING)": (on_request(frame(6)), FRAME_UNEXPECTED),
    "a frame of HTTP/2 (WINDOW_UPDATE)": (on_request(frame(8)), FRAME_UNEXPECTED),
    "a frame of HTTP/2 (CONTINUATION)": (on_request(frame(9)), FRAME_UNEXPECTED),
    "a frame cut short": (on_request(b"\1\x20abc"), FRAME_ERROR),
    "a body cut short": (on_request(head(*REQUEST) + b"\0\x20abc"), FRAME_ERROR),
    "an unknown entry of the static table": (
        on_request(frame(HEADERS, b"\0\0\xff\x70")),
        DECOMPRESSION_FAILED,
    ),
    "an entry of a dynamic table that isn't there": (
        on_request(frame(HEADERS, b"\2\0\x80")),
        DECOMPRESSION_FAILED,
    ),
    "settings twice": (on_control(frame(SETTINGS)), FRAME_UNEXPECTED),
    "data on the control stream": (on_control(frame(DATA)), FRAME_UNEXPECTED),
    "headers on the control stream": (on_control(frame(HEADERS)), FRAME_UNEXPECTED),
    "a push promise on the control stream": (
        on_control(frame(PUSH_PROMISE, b"\0")),
        FRAME_UNEXPECTED,
    ),
    "PING on the control stream": (on_control(frame(6)), FRAME_UNEXPECTED),
    "a farewell that takes back": (
        on_control(frame(GOAWAY, b"\0"), frame(GOAWAY, b"\4")),
        ID_ERROR,
    ),
    "the end of the control stream": (close_control, CLOSED_CRITICAL),
    "another control stream": (on_new(0, frame(SETTINGS)), STREAM_CREATION),
    "another encoder": (on_new(2), STREAM_CREATION),
    "another decoder": (on_new(3), STREAM_CREATION),
}

STREAM_ERRORS = {
    "capitals in a name": (head(*REQUEST, (b"X-App", b"1")), MESSAGE_ERROR),
    "no method": (head(SCHEME, AUTHORITY, PATH), MESSAGE_ERROR),
    "no path": (head(METHOD, SCHEME, AUTHORITY), MESSAGE_ERROR),
    "an empty path": (head(METHOD, SCHEME, AUTHORITY, (b":path", b"")), MESSAGE_ERROR),
    "no authority": (head(METHOD, SCHEME, PATH), MESSAGE_ERROR),
    "two authorities": (head(*REQUEST, (b"host", b"elsewhere")), MESSAGE_ERROR),
    "an unknown pseudo-header": (head(*REQUEST, (b":mood", b"good")), MESSAGE_ERROR),
    "a line break in a value": (head(*REQUEST, (b"x-app", b"1\r\nx-b: 2")), MESSAGE_ERROR),
    "a header of a connection": (head(*REQUEST, (b"connection", b"close")), MESSAGE_ERROR),
    "TE of more than trailers": (head(*REQUEST, (b"te", b"gzip")), MESSAGE_ERROR),
    "a request without a head": (b"", REQUEST_INCOMPLETE),
}

# What h3 0.0.8 does not check. None of it reaches an instance as anything but one plain request.
LET_PASS = {
    "a pseudo-header after the others": on_request(
        head(METHOD, SCHEME, AUTHORITY, (b"x-app", b"1"), PATH)
    ),
    "a pseudo-header twice": on_request(head(*REQUEST, (b":path", b"/s/b"))),
    "a status in a request": on_request(head(*REQUEST, (b":status", b"200"))),
    "data after a trailer": on_request(
        head(*REQUEST) + frame(DATA, b"a") + head() + frame(DATA, b"b")
    ),
    "a stream of a push": on_new(1, b"\0"),
    "a push called off that never was": on_control(frame(CANCEL_PUSH, b"\0")),
    "fewer pushes than before": on_control(frame(MAX_PUSH_ID, b"\4"), frame(MAX_PUSH_ID, b"\3")),
}

IGNORED = {
    "an unknown frame": on_request(frame(0x21, b"abc") + head(*REQUEST) + frame(0x40, b"abc")),
    "an unknown stream": on_new(0x21, b"abc"),
    "an unknown stream that ends": on_new(0x21, end=True),
    "an unknown frame of control": on_control(frame(0x21, b"abc")),
    "an unknown setting of another kind": on_control(frame(MAX_PUSH_ID, b"\4")),
}


def write_and_see(gateway: Secure, write: Callable[[Http3], None]) -> Http3:
    """The client, after the gateway had time to end its connection or to answer a request."""

    async def scenario() -> Http3:
        async with Http3.to(gateway.port, gateway.authority) as client:
            write(client)
            client.transmit()
            try:
                answer = await client.ask("GET", "/s/after")
            except ConnectionError:
                return client
            if client.ended is None:
                assert answer.status == 200
        return client

    return asyncio.run(scenario())


@pytest.mark.parametrize("case", CONNECTION_ERRORS)
def test_an_error_of_the_connection_ends_it(gateway: Secure, case: str) -> None:
    write, code = CONNECTION_ERRORS[case]
    client = write_and_see(gateway, write)
    assert client.ended is not None, "the connection goes on"
    assert hex(client.ended.error_code) == hex(code)


@pytest.mark.parametrize("case", STREAM_ERRORS)
def test_an_error_of_a_request_ends_its_stream_alone(gateway: Secure, case: str) -> None:
    content, code = STREAM_ERRORS[case]
    client = write_and_see(gateway, on_request(content))
    assert client.last.reset == code
    assert client.ended is None or client.ended.error_code == 0


@pytest.mark.parametrize("case", IGNORED | LET_PASS)
def test_what_is_not_known_is_ignored(gateway: Secure, case: str) -> None:
    client = write_and_see(gateway, (IGNORED | LET_PASS)[case])
    assert client.ended is None or client.ended.error_code == 0
