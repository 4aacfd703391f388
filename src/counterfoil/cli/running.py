"""Runs a coroutine with signal handling, and finds a running application's addresses."""

import asyncio
import fcntl
import signal
import sys
from collections.abc import Coroutine
from typing import Any, TypeVar

from counterfoil.application import StateFolder
from counterfoil.errors import CounterfoilError
from counterfoil.supervisor import START, Addresses, last_addresses

T = TypeVar("T")


def run_to_the_end(main: Coroutine[Any, Any, T]) -> T:
    """Run `main` as `asyncio.run` does; SIGTERM, too, lets it clean up.

    Exits with 128 and the signal's number if it was cut short, as a shell would say.
    """
    ended = False

    async def run() -> T:
        task = asyncio.current_task()
        assert task is not None, "a coroutine runs in one"

        def end() -> None:
            nonlocal ended
            ended = True
            task.cancel()

        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, end)
        return await main

    try:
        return asyncio.run(run())
    except asyncio.CancelledError:
        if not ended:
            raise
        sys.exit(128 + signal.SIGTERM)


def is_running(files: StateFolder) -> bool:
    """Whether a supervisor holds the state folder's lock."""
    if not files.lock.exists():
        return False
    with files.lock.open("r") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def addresses(files: StateFolder) -> Addresses:
    """The addresses of the running application.

    Raises:
        CounterfoilError: nothing runs.
    """
    if not is_running(files):
        raise CounterfoilError(f"nothing runs in {files.root}", hint=START)
    return last_addresses(files)
