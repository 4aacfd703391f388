"""Unique ids without a round trip: 41 bits of milliseconds, 10 of machine, 12 of sequence.

Machine numbers are leased. Two holders of one number must never generate in the same millisecond.
So each holder stores an upper bound for its timestamps, on a key that outlives the lease, and the
next holder starts above that bound. A holder raises its bound before it reaches it, and never
generates above it. A pause at any point does no harm: an id made with a stale timestamp still lies
below the old bound, and the new holder's ids lie above it.
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
"""How far ahead a bound is set. After a crash the number is blocked until its bound has passed;
claims prefer other free numbers."""
BACK_LIMIT_MS: Final = 1_000


class MachineId:
    """A leased machine number, and the range of timestamps it may be used for."""

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
            LeaseLost: the number may have another holder.
            Unavailable: the bound could not be stored.
        """
        if not self._lease.alive():
            raise LeaseLost("the machine number's lease has ended", hint="claim another")
        if timestamp_ms > self._bound_ms:
            bound = timestamp_ms + WINDOW_MS
            # Another holder would have changed the bound: then this put does nothing.
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
        """A free number, preferably one whose last bound has passed.

        Raises:
            CoordinationError: all 1,024 are taken.
            Unavailable: the engine did not answer.
        """
        lease = self._client.grant(self._ttl)
        try:
            return self._claim(lease, holder, now_ms)
        except CoordinationError:
            lease.revoke()  # the put may have succeeded without its answer arriving
            raise

    def holders(self) -> dict[int, str]:
        """The holder of each number in use.

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
    """Generates ids for one machine number; thread-safe."""

    def __init__(self, machine_id: MachineId, clock_ms: Callable[[], int]) -> None:
        self._machine_id = machine_id
        self._clock_ms = clock_ms
        self._lock = threading.Lock()
        self._last_ms = machine_id.start_ms
        self._sequence = SEQUENCES - 1

    def next_id(self) -> int:
        """A new id, greater than all earlier ones of this generator.

        Raises:
            LeaseLost: the number may have another holder.
            ClockWentBack: the clock went back by more than a second.
        """
        with self._lock:
            now = self._clock_ms()
            if now < self._last_ms - BACK_LIMIT_MS:
                raise ClockWentBack(f"the clock went back by {self._last_ms - now} ms")
            if now > self._last_ms:
                self._last_ms, self._sequence = now, 0
            elif self._sequence + 1 < SEQUENCES:
                self._sequence += 1
            else:  # the millisecond is full, or the clock went back: advance logically
                self._last_ms, self._sequence = self._last_ms + 1, 0
            self._machine_id.extend(self._last_ms)
            return (self._last_ms - EPOCH_MS) << 22 | self._machine_id.number << 12 | self._sequence


class Snowflakes:
    """Generates ids, and claims another machine number when one can't be used any more."""

    def __init__(self, machine_ids: MachineIds, holder: str, clock_ms: Callable[[], int]) -> None:
        self._machine_ids = machine_ids
        self._holder = holder
        self._clock_ms = clock_ms
        self._lock = threading.Lock()
        self._claim()

    def next_id(self) -> int:
        """A new id.

        Raises:
            CoordinationError: no machine number is available.
        """
        with self._lock:
            try:
                return self._snowflake.next_id()
            except CoordinationError:
                # Released first: otherwise each clock step would use up one of the 1,024.
                self._machine_id.release()
                self._claim()
                return self._snowflake.next_id()

    def _claim(self) -> None:
        self._machine_id = self._machine_ids.claim(self._holder, self._clock_ms())
        self._snowflake = Snowflake(self._machine_id, self._clock_ms)
