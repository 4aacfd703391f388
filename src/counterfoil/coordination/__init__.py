"""Discovery, leases, leadership and ids, on an embedded node."""

from counterfoil.coordination.client import Client, Lease, connect
from counterfoil.coordination.errors import (
    ClockWentBack,
    CoordinationError,
    LeaseLost,
    Unavailable,
)
from counterfoil.coordination.leadership import Leader, LeaderLease, Leadership, leaders
from counterfoil.coordination.node import KeyValue
from counterfoil.coordination.registry import Instance, Membership, Registry
from counterfoil.coordination.snowflake import MachineId, MachineIds, Snowflake

__all__ = [
    "Client",
    "ClockWentBack",
    "CoordinationError",
    "Instance",
    "KeyValue",
    "Leader",
    "LeaderLease",
    "Leadership",
    "Lease",
    "LeaseLost",
    "MachineId",
    "MachineIds",
    "Membership",
    "Registry",
    "Snowflake",
    "Unavailable",
    "connect",
    "leaders",
]
