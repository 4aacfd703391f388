"""Discovery, leases, leadership and ids, on the embedded node or on etcd."""

from counterfoil.coordination.client import Client, KeyValue
from counterfoil.coordination.embedded import EmbeddedClient
from counterfoil.coordination.errors import (
    ClockWentBack,
    CoordinationError,
    LeaseLost,
    Refused,
    Unavailable,
)
from counterfoil.coordination.etcd import EtcdClient
from counterfoil.coordination.leadership import Leader, LeaderLease, Leadership, leaders
from counterfoil.coordination.lease import Lease
from counterfoil.coordination.registry import Instance, Membership, Registry
from counterfoil.coordination.snowflake import MachineId, MachineIds, Snowflake, Snowflakes

__all__ = [
    "Client",
    "ClockWentBack",
    "CoordinationError",
    "EmbeddedClient",
    "EtcdClient",
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
    "Refused",
    "Registry",
    "Snowflake",
    "Snowflakes",
    "Unavailable",
    "leaders",
]
