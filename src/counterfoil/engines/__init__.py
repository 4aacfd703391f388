"""Servers of external engines on this machine: downloaded, started, watched, stopped.

They are for trying things out, for tests and for proofs. In production you run these servers
yourself and configure their addresses; then this package is not used.
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
