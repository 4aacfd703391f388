"""`counterfoil up`: the process tree of an application on one machine."""

from counterfoil.supervisor.host import LEASE_SECONDS
from counterfoil.supervisor.plan import Addresses, AddressInUse
from counterfoil.supervisor.supervisor import AlreadyRunning, Child, DidNotStart, Supervisor

__all__ = [
    "LEASE_SECONDS",
    "AddressInUse",
    "Addresses",
    "AlreadyRunning",
    "Child",
    "DidNotStart",
    "Supervisor",
]
