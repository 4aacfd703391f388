"""Inspects running engines for what would break a promise, and says what to change.

What is inspected is what the server itself tells; nothing is written to it.
"""

from collections.abc import Callable, Mapping
from importlib import import_module
from types import MappingProxyType
from typing import Final

from counterfoil.engines.checks.finding import Finding, Level

Check = Callable[[str, str | None, float], list[Finding]]
_CHECKS: Final = ("kafka", "postgres", "redis", "etcd")


def check(engine: str, address: str, secret: str | None, now: float) -> list[Finding]:
    """What is wrong with the engine at `address`; `now` is the time here, in seconds since 1970.

    An engine that can't be reached, or refuses the credentials, is a finding as well.

    Raises:
        KeyError: this engine tells nothing that could be checked.
    """
    found: Check = import_module(f"counterfoil.engines.checks.{checkable[engine]}").check
    return found(address, secret, now)


checkable: Mapping[str, str] = MappingProxyType({name: name for name in _CHECKS})
"""The engines that can be checked, with the modules that do it."""

__all__ = ["Finding", "Level", "check", "checkable"]
