"""The lock of a state folder: held by one supervisor, then by its guard."""

import asyncio
import fcntl
import time
from pathlib import Path
from typing import IO, Final

import msgspec

from counterfoil.application import StateFolder
from counterfoil.engines import state_of
from counterfoil.errors import CounterfoilError
from counterfoil.supervisor import guard

LOCK_SECONDS: Final = guard.GRACE_SECONDS + guard.KILLED_SECONDS + 24.0
"""How long a killed supervisor's processes may take to end, on a busy machine too; the guard holds
the lock until then."""


class AlreadyRunning(CounterfoilError):
    """The state folder is locked by another supervisor."""


class StateUnusable(CounterfoilError):
    """The state folder can't be created or written to; nothing was started."""


def opened(state: StateFolder) -> IO[str]:
    """The lock file of the state folder, which is created if needed.

    Raises:
        StateUnusable: the folder can't be created, or is not writable.
    """
    try:
        (state.root / "logs").mkdir(parents=True, exist_ok=True)
        return state.lock.open("w")
    except OSError as error:
        raise StateUnusable(
            f"the state folder {state.root} can't be used: {error.strerror}",
            hint="choose another one with --state",
        ) from error


async def take(lock: IO[str], state: StateFolder) -> None:
    """Take the state folder's lock; waits for the processes of a killed supervisor.

    Raises:
        AlreadyRunning: another supervisor runs there, or those processes don't end.
    """
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not _is_left_behind(state) or time.monotonic() > deadline:
                raise AlreadyRunning(
                    f"{state.root} is in use by another `counterfoil up`",
                    hint="stop it, or give this one a folder of its own with --state",
                ) from None
            await asyncio.sleep(0.1)
        else:
            return


def _is_left_behind(state: StateFolder) -> bool:
    """Whether the last supervisor that ran here has ended."""
    try:
        pid = msgspec.json.decode(state.run.read_bytes())["pid"]
    except FileNotFoundError:
        return False  # one that has only just begun
    # An ended process stays a zombie until its parent waits for it.
    return state_of(Path(f"/proc/{pid}/stat")) in "ZX"
