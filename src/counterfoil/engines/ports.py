"""Free ports for servers, reserved until the server has bound its port."""

import secrets
import socket
from collections import deque
from typing import Final

from counterfoil.engines.server import HOST

PORTS: Final = range(20_000, 32_768)
"""Below Linux's default range for outgoing connections, any of which could take a free port before
its server binds it."""
CLAIMS: Final = 256
"""Ports that a process reserves: enough for several applications at once."""
_claims: deque[socket.socket] = deque()


def free_port() -> int:
    """An unused loopback port, reserved against other callers for a while."""
    while True:
        port = secrets.choice(PORTS)
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0counterfoil-port-{port}")  # an abstract name, released with the process
            with socket.socket() as probe:
                probe.bind((HOST, port))
        except OSError:
            claim.close()
            continue
        _claims.append(claim)
        while len(_claims) > CLAIMS:
            _claims.popleft().close()
        return port
