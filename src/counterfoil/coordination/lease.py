"""A lease as its holder sees it, on either engine."""

import threading
import time
from typing import Final

from counterfoil.coordination.client import Client
from counterfoil.coordination.errors import CoordinationError

_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""Linux has two clocks that nobody sets. The monotonic one stands still while the machine is
suspended: whoever woke up would believe in a lease that has long been another's."""


def elapsed_seconds() -> float:
    """A clock for leases: nobody sets it, and it goes on while the machine is suspended."""
    return time.clock_gettime(_CLOCK)


class Lease:
    """A lease, judged by this process's own clock.

    Its deadline counts from before the last request that extended it was sent, so it ends here no
    later than at the engine. Once lost it stays lost.
    """

    def __init__(self, client: Client, number: int, ttl_seconds: float, asked: float) -> None:
        self.id = number
        self.lost = threading.Event()
        self._client = client
        self._ttl = ttl_seconds
        self._deadline = asked + ttl_seconds
        threading.Thread(target=self._keep, name=f"lease-{number}", daemon=True).start()

    def alive(self) -> bool:
        """Whether the lease can't have ended yet."""
        if not self.lost.is_set() and elapsed_seconds() < self._deadline:
            return True
        self.lost.set()
        return False

    def revoke(self) -> None:
        """Give the lease back; if the engine can't be told, it ends by itself."""
        self.lost.set()
        try:
            self._client.revoke(self.id)
        except CoordinationError:
            return

    def _keep(self) -> None:
        # Nothing here takes longer than the lease lasts, so that `lost` is set when it ends.
        while self.alive():
            left = self._deadline - elapsed_seconds()
            if self.lost.wait(min(self._ttl / 4, left)):
                return
            asked = elapsed_seconds()
            left = max(0.001, self._deadline - asked)
            try:
                alive = self._client.keep_alive(self.id, timeout=min(self._ttl / 2, left))
            except CoordinationError:
                continue  # it may be extended yet; if not, it ends by the clock
            if not alive:
                self.lost.set()
            elif self.alive():
                self._deadline = asked + self._ttl
