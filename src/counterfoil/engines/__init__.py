"""Servers of the real engines on this machine: downloaded, started, watched, stopped.

For trying things out, for tests and for proofs. In production these servers belong to whoever runs
them: give Counterfoil their addresses, and nothing of this package is used.
"""

from counterfoil.engines.errors import DidNotAnswer, EngineError, NotInstalled
from counterfoil.engines.ports import free_port
from counterfoil.engines.running import (
    ENGINES,
    RunningEngine,
    process_tree,
    send_signal,
    start,
    state_of,
)
from counterfoil.engines.server import Server, server

__all__ = [
    "ENGINES",
    "DidNotAnswer",
    "EngineError",
    "NotInstalled",
    "RunningEngine",
    "Server",
    "free_port",
    "process_tree",
    "send_signal",
    "server",
    "start",
    "state_of",
]
