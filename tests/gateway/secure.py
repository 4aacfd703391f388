"""A gateway with TLS, and HTTP/3 beside it, in front of a server that answers as a test wants."""

import datetime
import socket
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from upstream import Asked, Server

from counterfoil.gateway.config import GatewayConfig, Route
from counterfoil.gateway.data_plane import DataPlane
from counterfoil.gateway.services import Upstream
from counterfoil.gateway.tls import development_certificate


@dataclass
class Secure:
    plane: DataPlane
    server: Server
    authority: Path
    config: GatewayConfig

    @property
    def port(self) -> int:
        return int(self.plane.listen.rpartition(":")[2])


@contextmanager
def secure(
    folder: Path,
    answer: Callable[[Asked, socket.socket], bool | None],
    *,
    service: Upstream | None = None,
    **settings: Any,
) -> Generator[Secure, None, None]:
    """Routes of `/s/*` for GET, HEAD and POST, on two threads."""
    authority, certificate, key = development_certificate(
        folder, datetime.datetime.now(datetime.UTC)
    )
    server = Server(answer)
    threading.Thread(target=server.accept, daemon=True).start()
    route = Route(path="/s/*", methods=("GET", "HEAD", "POST"), service="s", identity=False)
    config = {
        "listen": "127.0.0.1:0",
        "admin": "127.0.0.1:0",
        "http3": True,
        "threads": 2,
        "request_body_limit": 1_000_000,
        "routes": (route,),
        "services": {"s": service or Upstream()},
    }
    checked = GatewayConfig(**config | settings)
    plane = DataPlane(
        checked,
        access_log=None,
        admin_credential="c",
        certificate=certificate,
        key=key,
    )
    plane.set_endpoints("s", [("s-1", server.address)])
    yield Secure(plane, server, authority, checked)
    plane.drain(5.0)
    server.close()
