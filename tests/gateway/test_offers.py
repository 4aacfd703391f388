"""Bodies that clients of HTTP/2 and HTTP/3 keep back until they are asked for them."""

import asyncio
import socket
from pathlib import Path

import pytest
from secure import secure
from test_early_hints import HintedHttp2, HintedHttp3
from upstream import Asked, sized

EXPECTED = [("expect", "100-continue")]
SIZES = (10, 100_000)
"""Held whole, and passed on as it comes."""


def answer(asked: Asked, connection: socket.socket) -> None:
    connection.sendall(sized(b"%d" % len(asked.body)))


def head(size: int) -> list[tuple[str, str]]:
    return [*EXPECTED, ("content-length", str(size))]


@pytest.mark.parametrize("size", SIZES)
def test_a_client_of_http2_is_asked_for_the_body_that_it_offers(tmp_path: Path, size: int) -> None:
    async def scenario(port: int, authority: Path) -> None:
        async with HintedHttp2.to(port, authority) as client, asyncio.timeout(20):
            assert isinstance(client, HintedHttp2)
            asked = asyncio.Event()
            client.on_hint = asked.set
            stream = client.h2.get_next_available_stream_id()
            begun = [(":method", "POST"), (":scheme", "https"), (":path", "/s/a")]
            client.h2.send_headers(stream, [*begun, (":authority", "localhost"), *head(size)])
            client.flush()
            await asked.wait()
            assert client.hints == [{b":status": b"100"}]

    with secure(tmp_path, answer) as gateway:
        asyncio.run(scenario(gateway.port, gateway.authority))


def test_a_client_of_http2_that_does_not_wait_is_not_asked(tmp_path: Path) -> None:
    async def scenario(port: int, authority: Path) -> None:
        async with HintedHttp2.to(port, authority) as client:
            assert isinstance(client, HintedHttp2)
            answer = await client.ask("POST", "/s/a", head(10), b"x" * 10)
            assert (answer.status, answer.body, client.hints) == (200, b"10", [])

    with secure(tmp_path, answer) as gateway:
        asyncio.run(scenario(gateway.port, gateway.authority))


@pytest.mark.parametrize("size", SIZES)
def test_a_client_of_http3_is_asked_for_the_body_that_it_offers(tmp_path: Path, size: int) -> None:
    async def scenario(port: int, authority: Path) -> None:
        async with HintedHttp3.to(port, authority) as client, asyncio.timeout(20):
            assert isinstance(client, HintedHttp3)
            asked = asyncio.Event()
            client.on_hint = asked.set
            stream = client.begin("POST", "/s/a", head(size), last=False)
            client.transmit()
            await asked.wait()
            assert client.hints == [{b":status": b"100"}]
            client.h3.send_data(stream, b"x" * size, end_stream=True)
            client.transmit()
            await client.answers[stream].ended.wait()
            assert client.answers[stream].body == b"%d" % size

    with secure(tmp_path, answer) as gateway:
        asyncio.run(scenario(gateway.port, gateway.authority))
