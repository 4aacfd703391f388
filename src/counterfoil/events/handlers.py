"""Checks of handlers: functions that have done all of their work when they return."""

import asyncio
import inspect
from collections.abc import Callable
from typing import Any, Final

from counterfoil.events.errors import EventsError, HandlerEnded

ENDINGS: Final = (SystemExit, asyncio.CancelledError)
"""Exceptions that would end a process or an asyncio task. From a handler, they count as failures
like any other error: otherwise the process would end again and again at the same event."""


def ended(error: BaseException) -> HandlerEnded:
    """The error for a handler that has raised one of `ENDINGS`."""
    return HandlerEnded(f"the handler ended with {type(error).__name__}: {error}")


def check_handler(whose: str, *handlers: Callable[..., Any] | None) -> None:
    """Check that functions do their work when they are called, inside a commit.

    A coroutine or generator would be created and never run, and the commit would count the event as
    handled.

    Raises:
        EventsError: one is a coroutine function or a generator function.
    """
    for handler in filter(None, handlers):
        for each in (handler, type(handler).__call__):  # an object may be callable
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
