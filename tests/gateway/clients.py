"""Clients of the three protocols with one face, each by a library that knows nothing of the others.

HTTP/1.1 is written out by hand, HTTP/2 is spoken by h2, HTTP/3 by aioquic.
"""

import asyncio
import ssl
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h2.config
import h2.connection
import h2.events
from aioquic.asyncio import QuicConnectionProtocol
from aioquic.asyncio.client import connect as connect_quic
from aioquic.h3.connection import H3_ALPN, ErrorCode, H3Connection
from aioquic.h3.events import DataReceived, H3Event, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import (
    ConnectionTerminated,
    QuicEvent,
    StopSendingReceived,
    StreamReset,
)

Headers = Iterable[tuple[str, str]]
PATIENCE = 60.0


@dataclass
class Answer:
    """What came back."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict[str, str])
    body: bytes = b""
    reset: int | None = None
    """The code with which the stream was reset, in place of its end."""
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    def head(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        if not self.status:
            self.headers = {name.decode(): value.decode() for name, value in headers}
            self.status = int(self.headers[":status"])


class Http1:
    """One request at a time on a connection of TLS."""

    name = "http/1.1"

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.lock = asyncio.Lock()

    @classmethod
    @asynccontextmanager
    async def to(cls, port: int, authority: Path) -> AsyncGenerator["Http1", None]:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=tls(authority, "http/1.1")
        )
        yield cls(reader, writer)
        writer.close()

    async def ask(
        self,
        method: str,
        path: str,
        headers: Headers = (),
        body: bytes = b"",
        trailer: Headers = (),
    ) -> Answer:
        async with self.lock, asyncio.timeout(PATIENCE):
            lines = [f"{method} {path} HTTP/1.1", "host: localhost"]
            lines += [f"{name}: {value}" for name, value in headers]
            content = body
            if trailer:
                lines.append("transfer-encoding: chunked")
                content = b"%x\r\n%s\r\n0\r\n" % (len(body), body)
                content += "".join(f"{name}: {value}\r\n" for name, value in trailer).encode()
                content += b"\r\n"
            elif body:
                lines.append(f"content-length: {len(body)}")
            self.writer.write("\r\n".join([*lines, "", ""]).encode() + content)
            return await self.read(method)

    async def read(self, method: str) -> Answer:
        answer = Answer()
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        answer.status = int(head[0].split()[1])
        pairs = (line.partition(": ") for line in head[1:] if line)
        answer.headers = {name.lower(): value for name, _, value in pairs}
        if method != "HEAD" and answer.status not in (204, 304):
            if "content-length" in answer.headers:
                length = int(answer.headers["content-length"])
                answer.body = await self.reader.readexactly(length)
            else:
                while size := int(await self.reader.readuntil(b"\r\n"), 16):
                    answer.body += (await self.reader.readexactly(size + 2))[:-2]
                await self.reader.readuntil(b"\r\n")
        answer.ended.set()
        return answer

    async def cancel(self, path: str, seen: asyncio.Event) -> None:
        """Ask, wait until the request was seen, and go away."""
        self.writer.write(f"GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode())
        await seen.wait()
        self.writer.transport.abort()


class Http2:
    """Many requests at once on a connection of TLS."""

    name = "h2"

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding=None))
        self.answers: dict[int, Answer] = {}
        self.moved = asyncio.Condition()
        self.goaway: h2.events.ConnectionTerminated | None = None

    @classmethod
    @asynccontextmanager
    async def to(cls, port: int, authority: Path) -> AsyncGenerator["Http2", None]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls(authority, "h2"))
        client = cls(reader, writer)
        client.h2.initiate_connection()
        client.h2.increment_flow_control_window(2**30)
        client.flush()
        reading = asyncio.create_task(client.read())
        yield client
        reading.cancel()
        writer.close()

    def flush(self) -> None:
        self.writer.write(self.h2.data_to_send())

    async def read(self) -> None:
        try:
            while True:
                head = await self.reader.readexactly(9)
                frame = await self.reader.readexactly(int.from_bytes(head[:3]))
                for event in self.h2.receive_data(head + frame):
                    self.happened(event)
                self.flush()
                async with self.moved:
                    self.moved.notify_all()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the end of the connection
        finally:
            for answer in self.answers.values():
                answer.ended.set()

    def happened(self, event: h2.events.Event) -> None:
        answer = self.answers.get(getattr(event, "stream_id", None) or 0, Answer())
        match event:
            case h2.events.ResponseReceived():
                answer.head(event.headers)
            case h2.events.DataReceived():
                answer.body += event.data
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            case h2.events.StreamEnded():
                answer.ended.set()
            case h2.events.StreamReset():
                answer.reset = event.error_code
                answer.ended.set()
            case h2.events.ConnectionTerminated():
                # h2 takes it for the end, though what is under way goes on (RFC 9113, section 6.8).
                self.goaway = event
                self.h2.state_machine.state = h2.connection.ConnectionState.CLIENT_OPEN
            case _:
                pass

    async def ask(
        self,
        method: str,
        path: str,
        headers: Headers = (),
        body: bytes = b"",
        trailer: Headers = (),
    ) -> Answer:
        async with asyncio.timeout(PATIENCE):
            stream = self.h2.get_next_available_stream_id()
            answer = self.answers[stream] = Answer()
            head = [*request(method, path), *headers]
            self.h2.send_headers(stream, head, end_stream=not (body or trailer))
            while body and not answer.ended.is_set():
                window = min(
                    self.h2.local_flow_control_window(stream), self.h2.max_outbound_frame_size
                )
                if window <= 0:
                    async with self.moved:
                        await self.moved.wait()
                    continue
                part, body = body[:window], body[window:]
                self.h2.send_data(stream, part, end_stream=not (body or trailer))
                self.flush()
                await self.writer.drain()
            if trailer:
                self.h2.send_headers(stream, list(trailer), end_stream=True)
            self.flush()
            await answer.ended.wait()
            return answer

    async def cancel(self, path: str, seen: asyncio.Event) -> None:
        """Ask, wait until the request was seen, and give it up."""
        stream = self.h2.get_next_available_stream_id()
        self.h2.send_headers(stream, request("GET", path), end_stream=True)
        self.flush()
        await seen.wait()
        self.h2.reset_stream(stream, error_code=8)
        self.flush()


class HeadAware(H3Connection):
    """aioquic wants the content that the length of a HEAD request's answer speaks of."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.heads: set[int] = set()

    def _check_content_length(self, stream: Any) -> None:
        if stream.stream_id not in self.heads:
            super()._check_content_length(stream)


class Http3(QuicConnectionProtocol):
    """Many requests at once on a connection of QUIC."""

    name = "h3"

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.h3 = HeadAware(self._quic)
        self.answers: dict[int, Answer] = {}
        self.ended: ConnectionTerminated | None = None
        self.last = Answer()

    @classmethod
    @asynccontextmanager
    async def to(cls, port: int, authority: Path, **settings: Any) -> AsyncGenerator["Http3", None]:
        configuration = QuicConfiguration(is_client=True, alpn_protocols=H3_ALPN, **settings)
        configuration.load_verify_locations(str(authority))
        async with connect_quic(
            "127.0.0.1", port, configuration=configuration, create_protocol=cls
        ) as client:
            assert isinstance(client, cls)
            yield client

    def quic_event_received(self, event: QuicEvent) -> None:
        for each in self.h3.handle_event(event):
            self.happened(each)
        match event:
            case StreamReset() | StopSendingReceived():
                answer = self.answers.get(event.stream_id)
                if answer and isinstance(event, StreamReset):
                    answer.reset = event.error_code
                    answer.ended.set()
            case ConnectionTerminated():
                self.ended = event
                for answer in self.answers.values():
                    answer.ended.set()
            case _:
                pass

    def happened(self, event: H3Event) -> None:
        match event:
            case HeadersReceived():
                answer = self.answers[event.stream_id]
                answer.head(event.headers)
            case DataReceived():
                answer = self.answers[event.stream_id]
                answer.body += event.data
            case _:
                return
        if event.stream_ended:
            answer.ended.set()

    def begin(self, method: str, path: str, headers: Headers = (), *, last: bool = True) -> int:
        stream = self._quic.get_next_available_stream_id()
        self.answers[stream] = Answer()
        if method == "HEAD":
            self.h3.heads.add(stream)
        head = [
            (name.encode(), value.encode()) for name, value in [*request(method, path), *headers]
        ]
        self.h3.send_headers(stream, head, end_stream=last)
        return stream

    async def ask(
        self,
        method: str,
        path: str,
        headers: Headers = (),
        body: bytes = b"",
        trailer: Headers = (),
    ) -> Answer:
        async with asyncio.timeout(PATIENCE):
            stream = self.begin(method, path, headers, last=not (body or trailer))
            if body:
                self.h3.send_data(stream, body, end_stream=not trailer)
            if trailer:
                fields = [(name.encode(), value.encode()) for name, value in trailer]
                self.h3.send_headers(stream, fields, end_stream=True)
            self.transmit()
            await self.answers[stream].ended.wait()
            return self.answers[stream]

    async def cancel(self, path: str, seen: asyncio.Event) -> None:
        """Ask, wait until the request was seen, and give it up."""
        stream = self.begin("GET", path)
        self.transmit()
        await seen.wait()
        self.give_up(stream)
        self.transmit()

    def give_up(self, stream: int) -> None:
        """What a browser does with a request that it does not want any more."""
        self._quic.stop_stream(stream, ErrorCode.H3_REQUEST_CANCELLED)

    async def move(self) -> None:
        """Go on from another port, as behind a router that has forgotten this client."""
        before = self._transport
        await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: self, local_addr=("::", 0)
        )
        assert before is not None and self._transport is not before
        before.close()


def request(method: str, path: str) -> list[tuple[str, str]]:
    return [
        (":method", method),
        (":scheme", "https"),
        (":authority", "localhost"),
        (":path", path),
    ]


def tls(authority: Path, protocol: str) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(authority))
    context.set_alpn_protocols([protocol])
    return context
