"""Shared by all state-changing console requests: the actor, and the size limit."""

from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
from starlette.requests import Request

BODY_LIMIT: Final = 1 << 20
"""Bytes of a request body: Kafka refuses larger events by default."""
LARGEST: Final = (1 << 63) - 1
"""The largest id that a database can store."""
ACTOR: Final = "console"
"""The actor in the audit log: all operators share one key."""
Answer = Callable[[Request], Awaitable[object]]


async def body_of(request: Request) -> bytes:
    """The body of a request.

    Raises:
        msgspec.DecodeError: it is too large.
    """
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > BODY_LIMIT:
            raise msgspec.DecodeError(f"more than {BODY_LIMIT} bytes")
    return body
