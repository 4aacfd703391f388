"""Free ports for servers, reserved until the server has bound its own."""

import secrets
import socket
from collections import deque
from typing import Final

from counterfoil.engines.server import HOST

PORTS: Final = range(20_000, 32_768)
"""Below those that Linux gives clients by default: one of them could take a port that was found
free before its server does."""
CLAIMS: Final = 256
"""Ports that a process keeps from others: as many as several applications that are started."""
_claims: deque[socket.socket] = deque()


def free_port() -> int:
    """A port of loopback that nobody listens on, and that nobody else is given for a while."""
    while True:
        port = secrets.choice(PORTS)
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0counterfoil-port-{port}")  # a name without a file, gone with its holder
            with socket.socket() as probe:
                probe.bind((HOST, port))
        except OSError:
            claim.close()
            continue
        _claims.append(claim)
        while len(_claims) > CLAIMS:
            _claims.popleft().close()
        return port
