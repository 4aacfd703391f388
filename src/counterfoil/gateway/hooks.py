"""Hooks: Python functions that inspect a request before a service gets it.

A hook runs in its own processes, never in the gateway's: its CPU time and its failures affect only
the routes that use it. The gateway asks the hook process with the fewest pending requests, waits at
most `deadline_ms`, and applies `failure` if there is no answer. A hook should have no side effects,
since it may be called twice for one request. It doesn't get the body.
"""

import asyncio
import inspect
import struct
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
import structlog

QUESTION_LIMIT: Final = 256 * 1024
"""In bytes, of a request's head as JSON: the gateway accepts heads of 32 KiB, in which every byte
may take six when escaped."""
_LENGTH: Final = struct.Struct(">I")
log = structlog.get_logger()


class HookRequest(msgspec.Struct, frozen=True):
    """A request as passed to a hook."""

    method: str
    path: str
    query: str
    headers: tuple[tuple[str, str], ...]
    """Names are in lower case. These are the client's headers and may contain credentials."""
    address: str
    """The client's address, behind the trusted proxies."""
    tenant: str
    """From the client's credentials; empty on a route without identity."""
    tier: str
    request_id: str

    def header(self, name: str) -> str:
        """The first value of a header, empty if there is none."""
        return next((value for key, value in self.headers if key == name.lower()), "")


class Pass(msgspec.Struct, frozen=True):
    """Let the request pass, with these headers replacing the client's of the same names."""

    headers: dict[str, str] = {}


class Refuse(msgspec.Struct, frozen=True):
    """Answer the client with a problem document; `status` is 400 to 599."""

    status: int
    detail: str
    retry_after_seconds: int | None = None

    def __post_init__(self) -> None:
        if not 400 <= self.status <= 599:
            raise ValueError(f"a hook refuses with a status of 400 to 599, not {self.status}")


Decision = Pass | Refuse | None
"""None lets the request pass unchanged."""
Hook = Callable[[HookRequest], Decision | Awaitable[Decision]]
"""A function, or an `async def` if it has to wait."""


async def serve_hook(
    hook: Hook, address: str, stopped: asyncio.Event, on_ready: Callable[[], None]
) -> None:
    """Answer the gateway's requests at `host:port` until `stopped` is set.

    Raises:
        OSError: the address can't be listened on.
    """
    host, _, port = address.rpartition(":")
    decoder = msgspec.json.Decoder(HookRequest)

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
                if length > QUESTION_LIMIT:
                    break
                answer = await _decide(hook, decoder.decode(await reader.readexactly(length)))
                writer.write(_LENGTH.pack(len(answer)) + answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the gateway has closed the connection: its deadline has passed, or it ended
        except msgspec.DecodeError as error:
            log.warning("not_a_question", error=str(error))
        finally:
            writer.close()

    server = await asyncio.start_server(converse, host, int(port), backlog=1024)
    on_ready()
    async with server:
        await stopped.wait()


async def _decide(hook: Hook, request: HookRequest) -> bytes:
    try:
        decision = hook(request)
        if inspect.isawaitable(decision):
            decision = await decision
    except Exception:
        log.exception("hook_failed", request_id=request.request_id, path=request.path)
        return b'"failed"'
    match decision:
        case Refuse():
            return msgspec.json.encode({"refuse": decision})
        case Pass(headers):
            return msgspec.json.encode({"pass": list(headers.items())})
        case None:
            return b'{"pass":[]}'
        case _:  # untyped code may return anything
            log.error("hook_failed", error=f"it returned a {type(decision).__name__}")
            return b'"failed"'
