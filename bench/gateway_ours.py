"""Counterfoil's data plane in a process of its own, started by `gateway.py`, until SIGTERM.

At each SIGHUP it takes on another configuration, and says how long that took.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import msgspec

from counterfoil.gateway.config import GatewayConfig, Limit, Route
from counterfoil.gateway.credentials import Identity
from counterfoil.gateway.data_plane import DataPlane, SharedLimits
from counterfoil.gateway.services import Upstream

SERVICE = "upstream"


def config(
    listen: str,
    identity: Identity | None,
    *,
    strict: bool,
    http3: bool,
    further: dict[str, str],
) -> GatewayConfig:
    """One route; with an identity also two limits that no load here uses up, one maybe strict.

    `further` are services of a path with their name, and their methods: what one has under way
    is not in the way of another.
    """
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
        tls="development" if http3 else "off",
        http3=http3,
        threads=1,
        identity=identity,
        limits=limits,
        routes=(
            route,
            *(
                Route(path=f"/{name}", methods=(method,), service=name, identity=False)
                for name, method in further.items()
            ),
        ),
    )


def changed(base: GatewayConfig, number: int) -> GatewayConfig:
    """Another configuration, where a route, a limit and bounds differ; what is asked for stays."""
    other = Route(path=f"/{number}", methods=("GET",), service=SERVICE, identity=False)
    limit = Limit(key="address", rate=1e6 + number, burst=1_000_000)
    routes = tuple(
        msgspec.structs.replace(route, limits=("changing",)) if route.path == "/x" else route
        for route in base.routes
    )
    return msgspec.structs.replace(
        base,
        routes=(*routes, other) if number % 2 else (other, *routes),
        limits={"changing": limit},
        services={SERVICE: Upstream(concurrency=256 + number, breaker_failures=5 + number % 3)},
    )


def main(document: str) -> None:
    """Serve what the document says.

    It has listen, upstream, access_log, identity, tls, http3, shared_limits, strict, and, for
    `config`, further with the address large, where those services are.
    """
    asked = json.loads(document)
    # Blocked before the native threads start, so that the signal reaches `sigwait`.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGHUP})
    identity = Identity(**asked["identity"]) if asked["identity"] else None
    certificate, key = map(Path, asked["tls"]) if asked["tls"] else (None, None)
    shared_limits = None
    if asked.get("shared_limits"):
        password = os.environ["REDIS_PASSWORD"]
        shared_limits = SharedLimits(asked["shared_limits"], "bench", password=password)
    names = ("strict", "http3", "further")
    base = config(asked["listen"], identity, **{name: asked[name] for name in names})
    plane = DataPlane(
        base,
        access_log=Path(asked["access_log"]) if asked["access_log"] else None,
        admin_credential="bench",
        certificate=certificate,
        key=key,
        shared_limits=shared_limits,
    )
    plane.set_endpoints(SERVICE, [("upstream-1", asked["upstream"])])
    for name in asked["further"]:
        plane.set_endpoints(name, [("large-1", asked["large"])])
    number = 0
    while signal.sigwait({signal.SIGTERM, signal.SIGHUP}) == signal.SIGHUP:
        number += 1
        began = time.perf_counter()
        plane.reload(changed(base, number))
        print(json.dumps({"reload_ms": round((time.perf_counter() - began) * 1e3, 3)}), flush=True)
    plane.drain(1.0)


if __name__ == "__main__":
    main(sys.argv[1])
