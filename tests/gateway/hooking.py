"""A process of a hook, for tests: `python hooking.py NAME ADDRESS`; says when it is ready."""

import asyncio
import sys
import time

from counterfoil.gateway.hooks import Decision, Hook, HookRequest, Pass, Refuse, serve_hook


def mark(request: HookRequest) -> Decision:
    """Says what it saw."""
    seen = f"{request.method} {request.path}?{request.query} {request.header('X-Mine')}"
    return Pass({"x-seen": seen, "x-mine": "hooked"})


def refuse(request: HookRequest) -> Decision:
    """Lets nobody pass but a friend."""
    if request.header("x-friend") == "yes":
        return None
    return Refuse(403, f"{request.address} is no friend", retry_after_seconds=7)


async def wait(request: HookRequest) -> Decision:
    """Waits as long as it is told to, and lets others go on meanwhile."""
    await asyncio.sleep(float(request.header("x-wait")))
    return Pass({"x-seen": "waited"})


def block(request: HookRequest) -> Decision:
    """Waits as long as it is told to, and holds its process up."""
    time.sleep(float(request.header("x-wait") or 0))
    return Pass({"x-seen": "blocked"})


def fail(_: HookRequest) -> Decision:
    """Has a bug."""
    raise ZeroDivisionError


def forge(_: HookRequest) -> Decision:
    """Claims to be the gateway."""
    return Pass({"x-counterfoil-tenant": "somebody"})


def nonsense(_: HookRequest) -> Decision:
    """Returns what it must not."""
    return "yes"  # type: ignore[return-value]


HOOKS: dict[str, Hook] = {
    each.__name__: each for each in (mark, refuse, wait, block, fail, forge, nonsense)
}


def main(name: str, address: str) -> None:
    def ready() -> None:
        print("ready", flush=True)

    asyncio.run(serve_hook(HOOKS[name], address, asyncio.Event(), ready))


if __name__ == "__main__":
    main(*sys.argv[1:])
