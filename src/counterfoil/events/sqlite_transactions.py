"""Transactions of the embedded engine: the holder of a SQLite file's write lock.

A writer in WAL mode locks a byte of the `-shm` file during its transaction, and the kernel lists
the holders of byte locks (`/proc/locks`). The `-shm` file must not be opened for that: closing a
file drops every POSIX lock that the process has on it, also those of its SQLite connections.
"""

from pathlib import Path
from typing import Final

from counterfoil.events.errors import NoSuchTransaction
from counterfoil.events.transactions import Hanging, Transaction

WRITE_LOCK: Final = 120
"""The byte (SQLite, "WAL-mode File Format", section on locks: WAL_WRITE_LOCK)."""
_LOCKS: Final = Path("/proc/locks")


class SqliteTransactions:
    """The open write transactions on the databases in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def newest(self, now_us: int) -> list[Transaction]:
        """The files whose write lock is held, each with its holder."""
        files = {
            place.stat().st_ino: place.name.removesuffix("-shm")
            for place in sorted(self._folder.glob("*.db-shm"))
        }
        return [
            Transaction(files[inode], "open", _described(process), None, None, [])
            for process, inode in _write_locks()
            if inode in files
        ]

    def hanging(self, now_us: int, idle_seconds: float) -> list[Hanging]:
        """None: the lock of a process ends with the process."""
        return []

    def abort(self, identity: str) -> None:
        """Not possible: only the holder can release a lock."""
        raise NoSuchTransaction(
            "a transaction of SQLite can't be aborted from outside",
            hint="end the process that holds it; its transaction is rolled back",
        )

    def abort_hanging(self, hanging: Hanging) -> None:
        """Not possible: there are none."""
        raise NoSuchTransaction("a transaction of SQLite does not hang")


def _write_locks() -> list[tuple[int, int]]:
    """(process id, inode) of every lock on the byte that a writer takes."""
    found: list[tuple[int, int]] = []
    for line in _LOCKS.read_text().splitlines() if _LOCKS.exists() else ():
        # 1: POSIX  ADVISORY  WRITE 4711 fd:00:2531452 120 120; `->` marks a waiter.
        words = line.split()
        if words[1:4] == ["POSIX", "ADVISORY", "WRITE"]:
            process, place, first, last = words[4:8]
            if last != "EOF" and int(first) <= WRITE_LOCK <= int(last):
                found.append((int(process), int(place.rpartition(":")[2])))
    return found


def _described(process: int) -> str:
    try:
        name = Path(f"/proc/{process}/comm").read_text(errors="replace").strip()
        command = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return f"process {process}"
    return f"process {process} ({name}): {b' '.join(command[:5]).decode(errors='replace').strip()}"
