"""Clients that don't read what comes."""

import array
import fcntl
import socket
import termios
import time


def unread(client: socket.socket) -> int:
    """Bytes that have come and are not read."""
    counted = array.array("i", [0])
    fcntl.ioctl(client, termios.FIONREAD, counted)
    return counted[0]


def wait_until_stalled(readers: list[socket.socket]) -> None:
    """Until nothing more comes, because nobody reads."""
    seen: list[int] = []
    deadline = time.monotonic() + 20
    while (now := [unread(reader) for reader in readers]) != seen or not all(now):
        assert time.monotonic() < deadline
        seen = now
        time.sleep(0.3)
