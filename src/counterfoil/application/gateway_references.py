"""Checks references between the gateway's settings: unknown names and unreachable routes. They
need the whole configuration: each setting may be valid by itself."""

from collections.abc import Iterator
from typing import NamedTuple

from counterfoil.gateway.config import GatewayConfig, Route
from counterfoil.gateway.credentials import DEFAULT_TIER


class Fault(NamedTuple):
    """A fault and its setting."""

    setting: str
    """The full name, such as `gateway.routes[0].limits`."""
    said: str
    hint: str


def faults(gateway: GatewayConfig) -> Iterator[Fault]:
    """The faults of keys and routes, in the order of the file."""
    yield from _keys(gateway)
    yield from _never_asked(gateway.routes)


def _keys(gateway: GatewayConfig) -> Iterator[Fault]:
    known = ", ".join(gateway.tiers)
    holders: dict[str, str] = {}
    for kind, keys in (("api_keys", gateway.api_keys), ("signing_keys", gateway.signing_keys)):
        for name, key in keys.items():
            if key.tier not in (*gateway.tiers, DEFAULT_TIER):
                yield Fault(
                    f"gateway.{kind}.{name}.tier",
                    f"{name} is of the unknown tier {key.tier!r}, which would be the lowest",
                    f"use one of: {known}",
                )
    for name, key in gateway.api_keys.items():
        if key.sha256 in holders:
            yield Fault(
                f"gateway.api_keys.{name}.sha256",
                f"{name} and {holders[key.sha256]} are the same key, of whom nobody knows",
                "make one for each: `counterfoil gateway key NAME`",
            )
        holders[key.sha256] = name


def _never_asked(routes: tuple[Route, ...]) -> Iterator[Fault]:
    """Routes that an earlier route of the same path shadows completely."""
    for place, route in enumerate(routes):
        earlier = [
            each for each in routes[:place] if each.path == route.path and _asks_less(each, route)
        ]
        if set(route.methods) <= {method for each in earlier for method in each.methods}:
            yield Fault(
                f"gateway.routes[{place}]",
                f"route {route.path} is never asked: one before it takes all of its requests",
                "put it first, let it ask for other methods, hosts or headers, or take it out",
            )


def _asks_less(earlier: Route, later: Route) -> bool:
    """Whether `earlier` matches every host and all headers that `later` matches."""
    names = {host.lower() for host in earlier.hosts}
    hosts = [host.lower() for host in later.hosts]
    covered = bool(hosts) and all(
        host in names or any(name[0] == "*" and host.endswith(name[1:]) for name in names)
        for host in hosts
    )
    asked = {name.lower(): value for name, value in later.headers.items()}
    fits = all(asked.get(name.lower()) == value for name, value in earlier.headers.items())
    return fits and (not names or covered)
