"""A lease as seen by its holder, on either engine."""

import threading
import time
from typing import Final

from counterfoil.coordination.client import Client
from counterfoil.coordination.errors import CoordinationError

_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""Linux has two clocks that can't be set. CLOCK_MONOTONIC stops while the machine is suspended, so
after waking up a holder would still believe in a lease that has long ended."""


def elapsed_seconds() -> float:
    """The clock for leases: it can't be set, and it counts time suspended."""
    return time.clock_gettime(_CLOCK)


class Lease:
    """A lease, judged by this process's own clock.

    Its deadline counts from before the last successful renewal was sent, so it ends here no later
    than at the engine. A lost lease stays lost.
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
        """Give the lease back; if the engine can't be reached, it expires."""
        self.lost.set()
        try:
            self._client.revoke(self.id)
        except CoordinationError:
            return

    def _keep(self) -> None:
        # No call here takes longer than the lease lasts, so that `lost` is set when it ends.
        while self.alive():
            left = self._deadline - elapsed_seconds()
            if self.lost.wait(min(self._ttl / 4, left)):
                return
            asked = elapsed_seconds()
            left = max(0.001, self._deadline - asked)
            try:
                alive = self._client.keep_alive(self.id, timeout=min(self._ttl / 2, left))
            except CoordinationError:
                continue  # a later renewal may succeed; if none does, the lease expires
            if not alive:
                self.lost.set()
            elif self.alive():
                self._deadline = asked + self._ttl
