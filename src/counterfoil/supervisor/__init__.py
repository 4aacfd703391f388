"""`counterfoil up`: the process tree of an application on one machine."""

from counterfoil.supervisor.engines import (
    EngineRefused,
    check_engines,
    hold_to,
    kafka_access,
    last_configuration,
    open_coordination,
    open_events,
    secret,
    write_engines,
    written_engines,
)
from counterfoil.supervisor.folder_lock import AlreadyRunning
from counterfoil.supervisor.host import LEASE_SECONDS
from counterfoil.supervisor.log_tail import LogTail, log_tail
from counterfoil.supervisor.plan import (
    START,
    Addresses,
    AddressInUse,
    configured_engines,
    last_addresses,
)
from counterfoil.supervisor.supervisor import (
    Child,
    DidNotStart,
    Supervisor,
)

__all__ = [
    "LEASE_SECONDS",
    "START",
    "AddressInUse",
    "Addresses",
    "AlreadyRunning",
    "Child",
    "DidNotStart",
    "EngineRefused",
    "LogTail",
    "Supervisor",
    "check_engines",
    "configured_engines",
    "hold_to",
    "kafka_access",
    "last_addresses",
    "last_configuration",
    "log_tail",
    "open_coordination",
    "open_events",
    "secret",
    "write_engines",
    "written_engines",
]
