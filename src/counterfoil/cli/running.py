"""Finds out whether an application runs, and where."""

import fcntl

from counterfoil.application import StateFolder
from counterfoil.errors import CounterfoilError
from counterfoil.supervisor import Addresses, last_addresses


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
        raise CounterfoilError(f"nothing runs in {files.root}", hint="start it: counterfoil up")
    return last_addresses(files)
