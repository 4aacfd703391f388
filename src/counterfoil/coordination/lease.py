"""A lease as its holder sees it, on any engine."""

import threading
import time

from counterfoil.coordination.client import Client
from counterfoil.coordination.errors import CoordinationError


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
        if not self.lost.is_set() and time.monotonic() < self._deadline:
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
        while self.alive():
            if self.lost.wait(self._ttl / 4):
                return
            asked = time.monotonic()
            try:
                alive = self._client.keep_alive(self.id, timeout=self._ttl / 2)
            except CoordinationError:
                continue  # it may be extended yet; if not, it ends by the clock
            if not alive:
                self.lost.set()
            elif self.alive():
                self._deadline = asked + self._ttl
