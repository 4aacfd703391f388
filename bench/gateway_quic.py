"""HTTP/3 as aioquic speaks it, which shares no code with the proxies nor with the load generator.

It asks a proxy for one answer before that is measured, and it is the server that `h3load` is held
against: what the generator says it got has to be what was sent, and what is wrong has to count as
an error.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from aioquic.asyncio import QuicConnectionProtocol, serve
from aioquic.asyncio.client import connect
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import QuicEvent

PATIENCE_SECONDS: Final = 5.0
CONTENT: Final = b"x" * 5_000
"""More than one datagram holds."""
WRONG: Final = ("/short", "/missing", "/reset")
"""What the server answers with too few bytes, with 404, and not to the end."""


class _Asking(QuicConnectionProtocol):
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.status, self.body, self.ended = 0, b"", asyncio.Event()
        self._http = H3Connection(self._quic)

    def ask(self, path: str) -> None:
        head = {":method": "GET", ":scheme": "https", ":authority": "localhost", ":path": path}
        fields = [(name.encode(), value.encode()) for name, value in head.items()]
        self._http.send_headers(self._quic.get_next_available_stream_id(), fields, end_stream=True)
        self.transmit()

    def quic_event_received(self, event: QuicEvent) -> None:
        for each in self._http.handle_event(event):
            if isinstance(each, HeadersReceived):
                self.status = int(dict(each.headers)[b":status"])
            elif isinstance(each, DataReceived):
                self.body += each.data
            else:
                continue
            if each.stream_ended:
                self.ended.set()


def get(address: str, authority: Path, path: str) -> tuple[int, str]:
    """The status and the body of one request.

    Raises:
        OSError: there is nobody, or no answer within PATIENCE_SECONDS.
    """

    async def ask() -> tuple[int, str]:
        configuration = QuicConfiguration(is_client=True, alpn_protocols=H3_ALPN)
        configuration.load_verify_locations(str(authority))
        configuration.server_name = "localhost"
        host, _, port = address.partition(":")
        async with (
            asyncio.timeout(PATIENCE_SECONDS),
            connect(
                host, int(port), configuration=configuration, create_protocol=_Asking
            ) as client,
        ):
            assert isinstance(client, _Asking)
            client.ask(path)
            await client.ended.wait()
            return client.status, client.body.decode()

    return asyncio.run(ask())


class _Answering(QuicConnectionProtocol):
    answered: dict[str, int]
    """How many requests for a path there were; set for each server by a class of its own."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._http = H3Connection(self._quic)

    def quic_event_received(self, event: QuicEvent) -> None:
        for each in self._http.handle_event(event):
            if isinstance(each, HeadersReceived):
                path = dict(each.headers)[b":path"].decode()
                self.answered[path] = self.answered.get(path, 0) + 1
                self._answer(each.stream_id, path)
        self.transmit()

    def _answer(self, stream: int, path: str) -> None:
        status = b"404" if path == "/missing" else b"200"
        self._http.send_headers(stream, [(b":status", status)])
        content = CONTENT[:-1] if path == "/short" else CONTENT
        self._http.send_data(stream, content, end_stream=path != "/reset")
        if path == "/reset":
            self._quic.reset_stream(stream, 0x102)


@asynccontextmanager
async def _answering(
    address: str, chain: Path, key: Path, answered: dict[str, int]
) -> AsyncIterator[None]:
    configuration = QuicConfiguration(is_client=False, alpn_protocols=H3_ALPN)
    configuration.load_cert_chain(chain, key)
    host, _, port = address.partition(":")
    protocol = type("Counting", (_Answering,), {"answered": answered})
    server = await serve(host, int(port), configuration=configuration, create_protocol=protocol)
    try:
        yield
    finally:
        server.close()


def faults(command: list[str], address: str, authority: Path, chain: Path, key: Path) -> list[str]:
    """What a load generator says that isn't so, when aioquic is the server; empty if it is right.

    `command` is asked with h3load's arguments, and answers as h3load does.
    """

    async def run(path: str) -> dict[str, Any]:
        arguments = ["--authority", str(authority), "--path", path, "--connections", "2"]
        arguments += ["--streams", "3", "--requests", "20", "--seconds", "5"]
        arguments += ["--body-bytes", str(len(CONTENT)), address]
        asked = await asyncio.create_subprocess_exec(
            *command, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        output, said = await asked.communicate()
        if asked.returncode:
            return {"requests": None, "errors": said.decode().strip()}
        return json.loads(output)

    async def compare() -> list[str]:
        found: list[str] = []
        answered: dict[str, int] = {}
        async with _answering(address, chain, key, answered):
            good = await run("/good")
            if (good["requests"], good["errors"], answered.get("/good")) != (40, 0, 40):
                found.append(f"of 40 good answers, {answered} sent, it says {good}")
            for path in WRONG:
                wrong = await run(path)
                if wrong["requests"] != 0 or wrong["errors"] != answered.get(path):
                    found.append(f"of answers to {path}, {answered} sent, it says {wrong}")
        return found

    return asyncio.run(compare())
