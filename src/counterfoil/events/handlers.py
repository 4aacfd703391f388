"""What a handler is: a function that has done all of its work when it returns."""

import asyncio
import inspect
from collections.abc import Callable
from typing import Any, Final

from counterfoil.events.errors import EventsError, HandlerEnded

ENDINGS: Final = (SystemExit, asyncio.CancelledError)
"""What ends a process, or a task, where nobody has asked for that: a handler that lets one out has
failed, as by any other error. It would end the process again and again, which begins with the same
event each time."""


def ended(error: BaseException) -> HandlerEnded:
    """The failure of a handler that has raised one of `ENDINGS`."""
    return HandlerEnded(f"the handler ended with {type(error).__name__}: {error}")


def check_handler(whose: str, *handlers: Callable[..., Any] | None) -> None:
    """See that functions do their work when they are called, inside of a commit.

    A coroutine or a generator would be made, and never run: the commit would go on as if the event
    had been handled.

    Raises:
        EventsError: one is a coroutine function or a generator function.
    """
    for handler in filter(None, handlers):
        for each in (handler, type(handler).__call__):  # an object may be called, too
            if inspect.iscoroutinefunction(each) or inspect.isasyncgenfunction(each):
                raise EventsError(
                    f"{whose}: {_name(handler)} is a coroutine function, and a commit waits for "
                    "nothing",
                    hint="write def; work that waits is for a parallel pipeline or a task queue",
                )
            if inspect.isgeneratorfunction(each):
                raise EventsError(
                    f"{whose}: {_name(handler)} is a generator, of which nothing would run",
                    hint="leave yield out: what is sent on goes by context.emit",
                )


def _name(handler: object) -> str:
    return getattr(handler, "__name__", type(handler).__name__)
