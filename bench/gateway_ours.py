"""Counterfoil's data plane in a process of its own, started by `gateway.py`, until SIGTERM."""

import json
import os
import signal
import sys
from pathlib import Path

from counterfoil.gateway.config import GatewayConfig, Identity, Limit, Route
from counterfoil.gateway.data_plane import DataPlane, SharedLimits

SERVICE = "upstream"


def config(listen: str, identity: Identity | None, strict: bool) -> GatewayConfig:
    """One route; with an identity also two limits that no load here uses up, one maybe strict."""
    ample = {"rate": 1e6, "burst": 1_000_000}
    limits = (
        {
            "tenant": Limit(key="tenant", strict=strict, **ample),
            "address": Limit(key="address", **ample),
        }
        if identity
        else {}
    )
    route = Route(
        path="/x",
        methods=("GET",),
        service=SERVICE,
        identity=identity is not None,
        limits=tuple(limits),
    )
    return GatewayConfig(
        listen=listen,
        admin="127.0.0.1:0",
        tls="off",
        threads=1,
        identity=identity,
        limits=limits,
        routes=(route,),
    )


def main(document: str) -> None:
    """Serve what the document says: listen, upstream, access_log, identity, tls, shared_limits,
    strict.
    """
    asked = json.loads(document)
    # Blocked before the native threads start, so that the signal reaches `sigwait`.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    identity = Identity(**asked["identity"]) if asked["identity"] else None
    certificate, key = map(Path, asked["tls"]) if asked["tls"] else (None, None)
    shared_limits = None
    if asked.get("shared_limits"):
        password = os.environ["REDIS_PASSWORD"]
        shared_limits = SharedLimits(asked["shared_limits"], "bench", password=password)
    plane = DataPlane(
        config(asked["listen"], identity, asked["strict"]),
        access_log=Path(asked["access_log"]) if asked["access_log"] else None,
        admin_credential="bench",
        certificate=certificate,
        key=key,
        shared_limits=shared_limits,
    )
    plane.set_endpoints(SERVICE, [("upstream-1", asked["upstream"])])
    signal.sigwait({signal.SIGTERM})
    plane.drain(1.0)


if __name__ == "__main__":
    main(sys.argv[1])
