"""HTTP server of the embedded node; requests carry the application's credential."""

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from counterfoil import secret
from counterfoil.coordination.node import Node

log = structlog.get_logger()

EXPIRY_SECONDS: Final = 0.1
WATCH_SECONDS: Final = 20.0
"""The longest time a watch is held open; then the client asks again."""


def application(path: Path, credential: str) -> Starlette:
    """The node's HTTP interface: a POST for each operation, with JSON bodies."""
    node = Node(path, time.monotonic())
    changed = asyncio.Condition()

    async def announce() -> None:
        async with changed:
            changed.notify_all()

    async def grant(call: dict[str, Any]) -> object:
        return {"lease": node.grant(call["ttl"], time.monotonic())}

    async def keep_alive(call: dict[str, Any]) -> object:
        return {"alive": node.keep_alive(call["lease"], time.monotonic())}

    async def revoke(call: dict[str, Any]) -> object:
        if node.revoke(call["lease"]):
            await announce()
        return {}

    async def put(call: dict[str, Any]) -> object:
        written = node.put(call["key"], call["value"], call["lease"], call["if_revision"])
        if written is not None:
            await announce()
        return {"key": written}

    async def read(call: dict[str, Any]) -> object:
        return {"keys": node.range(call["prefix"]), "revision": node.revision}

    async def watch(call: dict[str, Any]) -> object:
        """The keys with a prefix, once the store's revision exceeds the caller's."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(WATCH_SECONDS), changed:
                await changed.wait_for(lambda: node.revision > call["revision"])
        return await read(call)

    def endpoint(
        verb: Callable[[dict[str, Any]], Awaitable[object]],
    ) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            given = request.headers.get("authorization", "")
            if not secret.matches(given, f"Bearer {credential}"):
                return Response(status_code=401)
            found = await verb(msgspec.json.decode(await request.body()))
            return Response(msgspec.json.encode(found), media_type="application/json")

        return answer

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[None, None]:
        async def expire() -> None:
            while True:
                await asyncio.sleep(EXPIRY_SECONDS)
                try:
                    ended = node.expire(time.monotonic())
                except sqlite3.Error:  # such as a full disk, which may be temporary
                    log.exception("leases could not be ended, and will be tried again")
                    continue
                if ended:
                    await announce()

        expiring = asyncio.create_task(expire())
        yield
        expiring.cancel()

    verbs = [grant, keep_alive, revoke, put, read, watch]
    return Starlette(
        routes=[Route(f"/v1/{verb.__name__}", endpoint(verb), methods=["POST"]) for verb in verbs],
        lifespan=lifespan,
    )
