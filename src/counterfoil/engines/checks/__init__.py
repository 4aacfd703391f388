"""Inspects running engines for settings that break a guarantee, with remedies.

Checks only read what the server reports; they never write to it.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Final

from counterfoil.engines.checks.finding import Finding, Level
from counterfoil.engines.checks.kafka import check_kafka
from counterfoil.engines.checks.postgres import check_decoding

Check = Callable[[str, str | None, float], list[Finding]]
checkable: Final = frozenset({"kafka", "postgres", "redis", "etcd"})
"""The engines that can be checked; each has a module of the same name."""


def check(engine: str, address: str, secret: str | None, now: float) -> list[Finding]:
    """The findings about the engine at `address`; `now` is the local time, seconds since 1970.

    An engine that is unreachable or refuses the credentials is a finding as well.

    Raises:
        KeyError: this engine is not `checkable`.
    """
    if engine not in checkable:
        raise KeyError(engine)
    found: Check = import_module(f"counterfoil.engines.checks.{engine}").check
    return found(address, secret, now)


__all__ = ["Finding", "Level", "check", "check_decoding", "check_kafka", "checkable"]
