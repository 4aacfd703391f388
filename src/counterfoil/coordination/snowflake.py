"""Unique ids without a round trip: 41 bits of milliseconds, 10 of machine, 12 of sequence.

A machine number is leased. Two holders of one number must never share a millisecond, so each
claim stores, on a key that outlives the lease, up to which timestamp its holder may generate; the
next holder starts above that. A holder moves its own bound ahead before it gets there, and refuses
to generate above it. A pause at any point does no harm: an id made with a stale timestamp still
lies below the old bound, and the new holder's ids above it.
"""

import threading
from collections.abc import Callable
from typing import Final

from counterfoil.coordination.client import Client
from counterfoil.coordination.errors import ClockWentBack, CoordinationError, LeaseLost
from counterfoil.coordination.lease import Lease

EPOCH_MS: Final = 1_704_067_200_000
"""2024-01-01: 41 bits last until 2093."""
MACHINES: Final = 1024
SEQUENCES: Final = 4096
MACHINES_HELD: Final = "/machines/"
BOUNDS: Final = "/machine-bounds/"
WINDOW_MS: Final = 60_000
"""How far ahead a bound is set: a crash costs its successor at most a wait, since a successor
takes another free number first."""
BACK_LIMIT_MS: Final = 1_000


class MachineId:
    """A leased machine number, and the timestamps that it may be used with."""

    def __init__(
        self, client: Client, number: int, lease: Lease, start_ms: int, revision: int
    ) -> None:
        self.number = number
        self.start_ms = start_ms
        self._client = client
        self._lease = lease
        self._revision = revision
        self._bound_ms = start_ms

    def held(self) -> bool:
        """Whether the lease can't have ended yet."""
        return self._lease.alive()

    def release(self) -> None:
        """Give the number back."""
        self._lease.revoke()

    def extend(self, timestamp_ms: int) -> None:
        """Make `timestamp_ms` usable.

        Raises:
            LeaseLost: the number may be somebody else's.
            Unavailable: the bound could not be stored.
        """
        if not self._lease.alive():
            raise LeaseLost("the machine number's lease has ended", hint="claim another")
        if timestamp_ms > self._bound_ms:
            bound = timestamp_ms + WINDOW_MS
            # Whoever else has moved the bound since holds the number: then this put does nothing.
            written = self._client.put(
                f"{BOUNDS}{self.number}", str(bound), if_revision=self._revision
            )
            if written is None:
                self._lease.revoke()
                raise LeaseLost("the machine number has another holder", hint="claim another")
            self._bound_ms = bound
            self._revision = written.mod_revision


class MachineIds:
    """Hands out machine numbers."""

    def __init__(self, client: Client, *, ttl_seconds: float = 5.0) -> None:
        self._client = client
        self._ttl = ttl_seconds

    def claim(self, holder: str, now_ms: int) -> MachineId:
        """A free number, by preference one whose last bound has passed.

        Raises:
            CoordinationError: all 1,024 are taken.
            Unavailable: the engine did not answer.
        """
        lease = self._client.grant(self._ttl)
        try:
            return self._claim(lease, holder, now_ms)
        except CoordinationError:
            lease.revoke()  # a number may have been taken that this holder was never told of
            raise

    def holders(self) -> dict[int, str]:
        """Who holds which number.

        Raises:
            Unavailable: the engine did not answer.
        """
        return {
            int(key.key.removeprefix(MACHINES_HELD)): key.value
            for key in self._client.range(MACHINES_HELD)
        }

    def _claim(self, lease: Lease, holder: str, now_ms: int) -> MachineId:
        taken = self.holders()
        bounds = {
            int(key.key.removeprefix(BOUNDS)): int(key.value) for key in self._client.range(BOUNDS)
        }
        free = [number for number in range(MACHINES) if number not in taken]
        free.sort(key=lambda number: (bounds.get(number, 0) > now_ms, number))
        for number in free:
            held = self._client.put(f"{MACHINES_HELD}{number}", holder, lease, if_revision=0)
            if held is None:
                continue
            key = f"{BOUNDS}{number}"  # read again, now that the number is held
            for stored in self._client.range(key):
                if stored.key == key:
                    start_ms, revision = int(stored.value), stored.mod_revision
                    return MachineId(self._client, number, lease, start_ms, revision)
            return MachineId(self._client, number, lease, 0, 0)
        raise CoordinationError(f"all {MACHINES} machine numbers are taken")


class Snowflake:
    """Generates ids for one machine number; may be used by several threads."""

    def __init__(self, machine_id: MachineId, clock_ms: Callable[[], int]) -> None:
        self._machine_id = machine_id
        self._clock_ms = clock_ms
        self._lock = threading.Lock()
        self._last_ms = machine_id.start_ms
        self._sequence = SEQUENCES - 1

    def next_id(self) -> int:
        """A new id, greater than all before it from this generator.

        Raises:
            LeaseLost: the number may be somebody else's.
            ClockWentBack: by more than a second.
        """
        with self._lock:
            now = self._clock_ms()
            if now < self._last_ms - BACK_LIMIT_MS:
                raise ClockWentBack(f"the clock went back by {self._last_ms - now} ms")
            if now > self._last_ms:
                self._last_ms, self._sequence = now, 0
            elif self._sequence + 1 < SEQUENCES:
                self._sequence += 1
            else:  # a full millisecond, or a clock that went back: time goes on logically
                self._last_ms, self._sequence = self._last_ms + 1, 0
            self._machine_id.extend(self._last_ms)
            return (self._last_ms - EPOCH_MS) << 22 | self._machine_id.number << 12 | self._sequence


class Snowflakes:
    """Ids that go on when a machine number can't be used any more: by another number."""

    def __init__(self, machine_ids: MachineIds, holder: str, clock_ms: Callable[[], int]) -> None:
        self._machine_ids = machine_ids
        self._holder = holder
        self._clock_ms = clock_ms
        self._lock = threading.Lock()
        self._claim()

    def next_id(self) -> int:
        """A new id.

        Raises:
            CoordinationError: no machine number can be had at the moment.
        """
        with self._lock:
            try:
                return self._snowflake.next_id()
            except CoordinationError:
                # Given back first: each step of a clock would take one of 1,024 otherwise.
                self._machine_id.release()
                self._claim()
                return self._snowflake.next_id()

    def _claim(self) -> None:
        self._machine_id = self._machine_ids.claim(self._holder, self._clock_ms())
        self._snowflake = Snowflake(self._machine_id, self._clock_ms)
