"""Clients that mean harm: each is refused or cut off, costs little, and troubles nobody else.

Every attack runs beside a client that goes on asking, and is bounded in itself; what the process
grows by is measured. Waiting times are set low here; what they are by default is in the
configuration.
"""

import asyncio
import os
import socket
import ssl
import threading
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, cast

import pytest
from clients import Answer, Http1, Http2, Http3, tls
from secure import Secure, secure
from upstream import LARGE, OK, Asked, sized

from counterfoil.gateway.config import Clients
from counterfoil.gateway.services import Upstream

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS, ACK = b"\0\0\0\4\0\0\0\0\0", b"\0\0\0\4\1\0\0\0\0"
PROTOCOL_ERROR, FLOW_CONTROL_ERROR, ENHANCE_YOUR_CALM = 0x1, 0x3, 0xB
HEADERS, RST_STREAM = 1, 3
HEAD_SECONDS, STALL_SECONDS = 1.0, 0.5
CUT_OFF = 15.0
"""By when whoever dawdles is cut off, on a busy machine too."""
broken_off = threading.Event()
"""The gateway has closed a connection on which an endless answer was on its way."""
begun = threading.Event()
"""The service was asked by a connection that was over by then."""
MEBIBYTE = 2**20
GROWTH = 48 * MEBIBYTE
"""What an attack may cost, with what the attackers hold, who are in this process too."""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Generator[Secure, None, None]:
    def answer(asked: Asked, connection: socket.socket) -> bool | None:
        if asked.line.split()[1] == "/s/endless":
            try:
                connection.sendall(OK + b"content-length: 1000000000\r\n\r\n")
                for _ in range(200):
                    connection.sendall(LARGE)
            except OSError:
                broken_off.set()
            return False
        if asked.line.split()[1] == "/s/ended":
            begun.set()
        if asked.line.split()[1] == "/s/slow":
            time.sleep(0.2)
        connection.sendall(sized(b"" if asked.line.startswith("HEAD") else b"answer"))
        return None

    clients = Clients(head_seconds=HEAD_SECONDS, idle_seconds=5.0, stall_seconds=STALL_SECONDS)
    service = Upstream(attempt_timeout_seconds=30.0)
    folder = tmp_path_factory.mktemp("tls")
    with secure(folder, answer, service=service, clients=clients) as gateway:
        yield gateway


def resident() -> int:
    """Bytes of memory that this process, and the gateway in it, holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def attack(gateway: Secure, *attacks: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Attack while another client asks, and see what that cost."""

    async def neighbour(stop: asyncio.Event) -> int:
        asked = 0
        while not stop.is_set() or not asked:
            opened = time.monotonic()
            try:
                async with Http1.to(gateway.port, gateway.authority) as client:
                    for _ in range(10):
                        began = time.monotonic()
                        answer = await client.ask("GET", "/s/neighbour")
                        assert (answer.status, answer.body) == (200, b"answer")
                        asked += 1
                        opened = began  # not when it was read, which may have been long after
            except (ConnectionError, asyncio.IncompleteReadError):
                # Cut off for its own slowness: the attackers take this process's time as well.
                assert time.monotonic() - opened >= HEAD_SECONDS
        return asked

    async def bear(each: Callable[[], Coroutine[Any, Any, None]]) -> None:
        with suppress(ConnectionError, ssl.SSLError):  # cut off, as early as that
            await each()

    async def scenario() -> None:
        stop = asyncio.Event()
        asking = asyncio.create_task(neighbour(stop))
        async with asyncio.timeout(150):
            await asyncio.gather(*(bear(each) for each in attacks))
        stop.set()
        assert await asking

    before = resident()
    asyncio.run(scenario())
    assert resident() - before < GROWTH
    deadline = time.monotonic() + 10
    while gateway.plane.state()["services"]["s"]["in_flight"]:
        assert time.monotonic() < deadline, "a request is still under way"
        time.sleep(0.01)


@asynccontextmanager
async def raw(
    gateway: Secure, protocol: str
) -> AsyncGenerator[tuple[asyncio.StreamReader, asyncio.StreamWriter], None]:
    """A connection of TLS on which anything may be written."""
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", gateway.port, ssl=tls(gateway.authority, protocol)
    )
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def ended(reader: asyncio.StreamReader) -> bytes:
    """What is read until the gateway ends the connection."""
    read = b""
    async with asyncio.timeout(CUT_OFF):
        with suppress(ConnectionError, ssl.SSLError):
            while part := await reader.read(65_536):
                read += part
    return read


async def dribble(writer: asyncio.StreamWriter, piece: bytes) -> None:
    """Write a piece now and then, until the gateway has enough of it."""
    with suppress(ConnectionError):
        while not writer.is_closing():
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.05)


def h2_frame(kind: int, flags: int, stream: int, content: bytes = b"") -> bytes:
    return len(content).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + content


def h2_head(path: bytes = b"/s/a", extra: bytes = b"") -> bytes:
    """A request by HPACK without a table."""
    fields = [(b":path", path), (b":authority", b"localhost")]
    literals = b"".join(
        b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value for name, value in fields
    )
    return b"\x82\x87" + literals + extra  # GET, https


async def flood(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, frames: bytes, most: int
) -> int | None:
    """Write these frames again and again until the gateway ends the connection.

    Returns the code of its GOAWAY frame, if that came through before the end did.
    """
    reading = asyncio.create_task(ended(reader))
    written = 0
    with suppress(ConnectionError, ssl.SSLError):
        while written < most and not reading.done():
            writer.write(frames)
            written += len(frames)
            await writer.drain()
            await asyncio.sleep(0)
    async with asyncio.timeout(3.0):  # before it counts as idle
        return goaway(await reading)


def goaway(read: bytes) -> int | None:
    """The code of the GOAWAY frame among those that were read."""
    while len(read) >= 9:
        length, kind = int.from_bytes(read[:3]), read[3]
        if kind == 7:
            code = int.from_bytes(read[13:17])
            if code:
                return code
        read = read[9 + length :]
    return None


def test_a_head_that_comes_byte_by_byte_is_not_waited_for(gateway: Secure) -> None:
    async def slow(protocol: str, begin: bytes) -> None:
        async with raw(gateway, protocol) as (reader, writer):
            writer.write(begin)
            dribbling = asyncio.create_task(dribble(writer, b"x"))
            await ended(reader)
            dribbling.cancel()

    attack(
        gateway,
        *(
            lambda: slow("http/1.1", b"GET /s/a HTTP/1.1\r\nhost: localhost\r\nx: ")
            for _ in range(20)
        ),
        *(lambda: slow("h2", PREFACE + SETTINGS + b"\0\x40\0\1\0\0\0\0\1") for _ in range(20)),
    )


def test_whoever_connects_and_says_nothing_is_let_go(gateway: Secure) -> None:
    async def silent(protocol: str, begin: bytes = b"") -> None:
        async with raw(gateway, protocol) as (reader, writer):
            writer.write(begin)
            await ended(reader)

    async def no_handshake(begin: bytes) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(begin)
        await ended(reader)
        writer.transport.abort()

    hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
    attack(
        gateway,
        *(lambda: silent("http/1.1") for _ in range(20)),
        *(lambda: silent("h2", PREFACE) for _ in range(20)),
        *(lambda: silent("h2", PREFACE + SETTINGS) for _ in range(20)),
        *(lambda: no_handshake(b"") for _ in range(20)),
        *(lambda: no_handshake(hello) for _ in range(20)),
        *(lambda: no_handshake(os.urandom(200)) for _ in range(20)),
    )


def test_an_answer_that_nobody_takes_is_broken_off(gateway: Secure) -> None:
    async def take_nothing(protocol: str, request: bytes) -> None:
        async with raw(gateway, protocol) as (_, writer):
            cast("asyncio.Transport", writer.transport).pause_reading()
            writer.write(request)
            assert await asyncio.to_thread(broken_off.wait, CUT_OFF)

    async def no_window() -> None:
        async with raw(gateway, "h2") as (reader, writer):
            writer.write(PREFACE + SETTINGS + h2_frame(1, 5, 1, h2_head(b"/s/endless")))
            async with asyncio.timeout(CUT_OFF):
                await until(reader, RST_STREAM, 1)
                writer.write(h2_frame(1, 5, 3, h2_head(b"/s/a")))  # the connection goes on
                await until(reader, HEADERS, 3)

    async def until(reader: asyncio.StreamReader, kind: int, stream: int) -> None:
        seen = None
        while seen != (kind, stream):
            head = await reader.readexactly(9)
            await reader.readexactly(int.from_bytes(head[:3]))
            seen = (head[3], int.from_bytes(head[5:]))

    async def no_window_3() -> None:
        async with Http3.to(gateway.port, gateway.authority) as client:
            client._quic._write_stream_limits = lambda *_, **__: None
            stream = client.begin("GET", "/s/endless")
            client.transmit()
            await asyncio.wait_for(client.answers[stream].ended.wait(), CUT_OFF)
            assert client.answers[stream].reset == 0x10C  # REQUEST_CANCELLED
            assert (await client.ask("HEAD", "/s/a")).status == 200

    ask_1 = b"GET /s/endless HTTP/1.1\r\nhost: localhost\r\n\r\n"
    window = h2_frame(4, 0, 0, b"\0\4\x7f\xff\xff\xff") + h2_frame(8, 0, 0, b"\x7f\0\0\0")
    ask_2 = PREFACE + window + h2_frame(1, 5, 1, h2_head(b"/s/endless"))
    attacks = (lambda: take_nothing("http/1.1", ask_1), lambda: take_nothing("h2", ask_2))
    for each in (*attacks, no_window, no_window_3):
        broken_off.clear()
        attack(gateway, each)
        assert broken_off.wait(CUT_OFF)


def test_floods_of_http2_end_their_connections(gateway: Secure) -> None:
    async def reset(first: int = 1) -> None:
        async with raw(gateway, "h2") as (reader, writer):
            writer.write(PREFACE + SETTINGS)
            frames = b"".join(
                h2_frame(1, 5, stream, h2_head(b"/s/slow")) + h2_frame(3, 0, stream, b"\0\0\0\x08")
                for stream in range(first, 20_000, 2)
            )
            code = await flood(reader, writer, frames, len(frames))
            assert code in (ENHANCE_YOUR_CALM, None)

    async def continuation() -> None:
        async with raw(gateway, "h2") as (reader, writer):
            writer.write(PREFACE + SETTINGS + h2_frame(1, 1, 1, h2_head()))
            frames = h2_frame(9, 0, 1, b"\0\1x" + b"\x7f\x81\x7f" + b"y" * 16_000)
            code = await flood(reader, writer, frames, 64 * MEBIBYTE)
            assert code in (PROTOCOL_ERROR, ENHANCE_YOUR_CALM, None)

    async def unread(frames: bytes) -> None:
        """What is to be answered, by a client that reads no answer."""
        async with raw(gateway, "h2") as (_, writer):
            writer.write(PREFACE + SETTINGS)
            cast("asyncio.Transport", writer.transport).pause_reading()
            with suppress(ConnectionError, TimeoutError):
                async with asyncio.timeout(2.0):
                    for _ in range(64 * MEBIBYTE // len(frames)):
                        writer.write(frames)
                        await writer.drain()
            # The gateway has stopped reading, or has ended the connection.
            assert writer.transport.get_write_buffer_size() or writer.is_closing()

    async def empty_data() -> None:
        async with raw(gateway, "h2") as (reader, writer):
            head = b"\x83" + h2_head()[1:]  # POST
            writer.write(PREFACE + SETTINGS + h2_frame(1, 4, 1, head))
            code = await flood(reader, writer, h2_frame(0, 0, 1) * 1000, 8 * MEBIBYTE)
            assert code in (ENHANCE_YOUR_CALM, None)

    async def window() -> None:
        async with raw(gateway, "h2") as (reader, writer):
            writer.write(PREFACE + SETTINGS)
            frames = h2_frame(8, 0, 0, b"\x7f\xff\xff\xff")
            code = await flood(reader, writer, frames, MEBIBYTE)
            assert code in (FLOW_CONTROL_ERROR, None)

    attack(gateway, reset, continuation)
    settings, ping = h2_frame(4, 0, 0, b"\0\3\0\0\0\x64"), h2_frame(6, 0, 0, b"12345678")
    attack(gateway, lambda: unread(settings * 1000), lambda: unread(ping * 1000))
    attack(gateway, empty_data, window)


def test_a_connection_of_http2_that_is_ended_asks_the_service_for_nothing(gateway: Secure) -> None:
    async def scenario() -> None:
        async with Http1.to(gateway.port, gateway.authority) as client:
            frames = PREFACE + SETTINGS
            for stream in range(1, 31, 2):
                frames += h2_frame(1, 5, stream, h2_head(b"/s/ended"))
                frames += h2_frame(3, 0, stream, b"\0\0\0\x08")
            frames += h2_frame(6, 0, 0, b"too short")
            for _ in range(10):
                # There is a connection to the service to ask on, and time to.
                assert (await client.ask("GET", "/s/a")).status == 200
                async with raw(gateway, "h2") as (reader, writer):
                    writer.write(frames)  # in one record of TLS
                    assert goaway(await ended(reader))
                    assert (await client.ask("GET", "/s/a")).status == 200

    asyncio.run(scenario())
    assert not begun.is_set()


def test_headers_that_grow_when_they_are_unpacked_are_refused(gateway: Secure) -> None:
    async def bomb() -> None:
        """One entry of the table, referred to again and again (CVE-2016-6581)."""
        async with raw(gateway, "h2") as (reader, writer):
            writer.write(PREFACE + SETTINGS)
            entry = b"\x40\1a" + b"\x7f\xa1\x1e" + b"b" * 4_000
            for stream in range(1, 101, 2):
                block = h2_head(extra=entry + b"\xbe" * 12_000)
                writer.write(h2_frame(1, 5, stream, block[:16_000]))
                writer.write(h2_frame(1, 5, stream, block[:16_000]))
            await writer.drain()
            await ended(reader)

    attack(gateway, bomb, bomb)


def test_what_is_too_large_or_too_many_is_refused_in_each_protocol(gateway: Secure) -> None:
    async def oversize(client: type[Http1] | type[Http2] | type[Http3]) -> None:
        uri = 60_000 if client is Http3 else 80_000  # aioquic has a limit itself
        many = [(f"x-{number}", "1") for number in range(120)]
        large = [(f"x-{number}", "y" * 40_000) for number in range(3)]
        for headers, path in ((many, "/s/a"), (large, "/s/a"), ([], "/s/" + "a" * uri)):
            answer, ended, opened = Answer(), None, time.monotonic()
            with suppress(asyncio.IncompleteReadError, ConnectionError):
                async with client.to(gateway.port, gateway.authority) as connection:
                    answer = await connection.ask("GET", path, headers)
                    goaway = getattr(connection, "goaway", None)
                    ended = goaway or getattr(connection, "ended", None)
            told = answer.status in (400, 414, 431) or answer.reset or ended
            # Or cut off for its own slowness: the others take this process's time as well.
            assert told or time.monotonic() - opened >= HEAD_SECONDS, (client, path[:9], answer)

    attack(gateway, *(lambda client=client: oversize(client) for client in (Http1, Http2, Http3)))


def test_rubbish_ends_the_connection(gateway: Secure) -> None:
    async def rubbish(protocol: str, seed: int) -> None:
        async with raw(gateway, protocol) as (reader, writer):
            writer.write(PREFACE if protocol == "h2" else b"")
            content = bytes((seed * 31 + place * place) % 256 for place in range(4_096))
            await flood(reader, writer, content, MEBIBYTE)

    attack(
        gateway,
        *(lambda seed=seed: rubbish("h2", seed) for seed in range(10)),
        *(lambda seed=seed: rubbish("http/1.1", seed) for seed in range(10)),
    )


def test_requests_given_up_at_once_over_http3_end_the_connection(gateway: Secure) -> None:
    async def reset() -> None:
        async with Http3.to(gateway.port, gateway.authority) as client:
            async with asyncio.timeout(CUT_OFF):
                while client.ended is None:
                    for _ in range(100):
                        stream = client.begin("GET", "/s/slow")
                        client.give_up(stream)
                    client.transmit()
                    await asyncio.sleep(0.02)
            assert client.ended.error_code == 0x107  # EXCESSIVE_LOAD

    attack(gateway, reset)


def test_what_is_collected_before_it_is_understood_is_bounded_over_http3(gateway: Secure) -> None:
    def endless(kind: int, before: bytes = b"") -> Callable[[], Coroutine[Any, Any, None]]:
        async def write() -> None:
            """A frame that says that it is of 1 GiB, on a stream of a request."""
            async with Http3.to(gateway.port, gateway.authority) as client:
                stream = client._quic.get_next_available_stream_id()
                client.answers[stream] = client.last
                client._quic.send_stream_data(
                    stream, before + bytes([kind]) + b"\xc0\0\0\0\x40\0\0\0"
                )
                with suppress(
                    RuntimeError, KeyError, ValueError
                ):  # aioquic's, once the stream was stopped
                    for _ in range(64):
                        client._quic.send_stream_data(stream, b"x" * 16_384)
                        client.transmit()
                        await asyncio.sleep(0.01)
                await asyncio.wait_for(client.last.ended.wait(), CUT_OFF)
                assert client.last.reset or client.ended

        return write

    def endless_control(kind: int) -> Callable[[], Coroutine[Any, Any, None]]:
        async def write() -> None:
            async with Http3.to(gateway.port, gateway.authority) as client:
                stream = client.h3._local_control_stream_id
                assert stream is not None
                client._quic.send_stream_data(stream, bytes([kind]) + b"\xc0\0\0\0\x40\0\0\0")
                for _ in range(64):
                    client._quic.send_stream_data(stream, b"x" * 16_384)
                    client.transmit()
                    await asyncio.sleep(0.01)
                    if client.ended:
                        break
                assert client.ended is not None, "the connection goes on"

        return write

    attack(gateway, endless(1), endless(0x21))
    attack(gateway, endless_control(4), endless_control(0x21))


def test_streams_without_an_end_are_bounded_over_http3(gateway: Secure) -> None:
    async def unfinished() -> None:
        async with Http3.to(gateway.port, gateway.authority) as client:
            for _ in range(300):  # more than may be open at a time
                stream = client._quic.get_next_available_stream_id()
                client.answers[stream] = client.last
                client._quic.send_stream_data(stream, b"\1")
            client.transmit()
            before = time.monotonic()
            while time.monotonic() < before + CUT_OFF and not client.ended:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            assert client.ended is not None, "the connection goes on"

    attack(gateway, unfinished, unfinished)


def test_fields_of_qpack_that_grow_when_they_are_unpacked_are_refused(gateway: Secure) -> None:
    async def bomb() -> None:
        async with Http3.to(gateway.port, gateway.authority) as client:
            for _ in range(50):
                stream = client._quic.get_next_available_stream_id()
                client.answers[stream] = client.last
                # A field of the static table in one byte: 53 bytes unpacked.
                section = b"\0\0" + b"\xdd" * 16_000
                client._quic.send_stream_data(
                    stream, b"\1" + (len(section) | 0x4000).to_bytes(2) + section, end_stream=True
                )
            client.transmit()
            await asyncio.wait_for(client.last.ended.wait(), CUT_OFF)
            assert client.last.status == 431 or client.last.reset or client.ended

    attack(gateway, bomb)


def test_a_datagram_from_an_unproven_address_is_answered_with_little(
    gateway: Secure,
) -> None:
    from aioquic.quic.configuration import QuicConfiguration
    from aioquic.quic.connection import QuicConnection

    configuration = QuicConfiguration(
        is_client=True, alpn_protocols=["h3"], server_name="localhost"
    )
    client = QuicConnection(configuration=configuration)
    client.connect(("127.0.0.1", gateway.port), now=time.monotonic())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as unproven:
        sent = received = 0
        for datagram, address in client.datagrams_to_send(now=time.monotonic()):
            sent += unproven.sendto(datagram, address)
        unproven.settimeout(1.0)
        with suppress(TimeoutError):
            while True:
                received += len(unproven.recv(65_536))
    # Three times as much (RFC 9000, section 8.1), and up to a datagram more: quinn sends one that
    # begins within the limit.
    assert 0 < received <= 3 * sent + 1_200


def test_no_more_connections_than_there_may_be(tmp_path: Path) -> None:
    def answer(_: Asked, connection: socket.socket) -> None:
        connection.sendall(sized(b"answer"))

    clients = Clients(connections_per_address=8)
    with secure(tmp_path, answer, clients=clients, threads=1) as gateway:

        async def scenario() -> None:
            held = [await asyncio.open_connection("127.0.0.1", gateway.port) for _ in range(8)]
            reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
            assert await ended(reader) == b""
            assert gateway.plane.state()["turned_away"] == 1
            writer.close()
            for _, each in held:
                each.transport.abort()
            async with asyncio.timeout(20):
                while True:
                    with suppress(ConnectionError):
                        async with Http1.to(gateway.port, gateway.authority) as client:
                            assert (await client.ask("GET", "/s/a")).status == 200
                            break

        asyncio.run(scenario())
