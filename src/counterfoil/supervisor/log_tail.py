"""Reads the end of a process's log.

A log may have any size and may be written to at the same time: only its end is read, and only whole
lines.
"""

from pathlib import Path
from typing import Final

import msgspec

TAIL_BYTES: Final = 256 * 1024
"""The maximum read: some thousand lines, or a dozen tracebacks."""


class LogTail(msgspec.Struct, frozen=True):
    """The last lines of a log, oldest first."""

    path: str
    size: int
    """Of the whole file, in bytes."""
    end: int
    """The offset after the last of these lines; the next read continues here."""
    lines: list[str]
    is_whole: bool
    """Whether these are all lines of the file."""


def log_tail(path: Path, limit: int) -> LogTail:
    """The last `limit` lines of the file, or of its last 256 KiB; none if there is no file yet.

    A line that is still being written is left out.

    Raises:
        OSError: it can't be read.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            start = max(size - TAIL_BYTES, 0)
            file.seek(start)
            read = file.read(TAIL_BYTES)
    except FileNotFoundError:
        return LogTail(str(path), 0, 0, [], is_whole=True)
    whole = read[: read.rfind(b"\n") + 1]
    found = whole.decode(errors="replace").split("\n")[:-1]
    if start > 0:
        del found[:1]  # its beginning was not read
    shown = found[-limit:]
    is_whole = start == 0 and len(shown) == len(found)
    return LogTail(str(path), size, start + len(whole), shown, is_whole=is_whole)
