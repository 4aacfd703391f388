"""Counterfoil: one backbone for Python backends, from request to report, exactly once.

Names are imported on first use, so that the command line answers `--help` without loading the
libraries of all parts.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from counterfoil.application import Application, Counterfoils, Request
    from counterfoil.application.queries import View
    from counterfoil.application.web import Refusal
    from counterfoil.events import (
        AGGREGATE_SCHEMA,
        Aggregate,
        Context,
        EventTime,
        Hopping,
        Migration,
        Session,
        StatelessContext,
        StepContext,
        StepFailed,
        Timer,
        Tumbling,
        Unit,
        VersionConflict,
        VersionedRows,
        Window,
    )
    from counterfoil.gateway.hooks import HookRequest, Pass, Refuse

__all__ = [
    "AGGREGATE_SCHEMA",
    "Aggregate",
    "Application",
    "Context",
    "Counterfoils",
    "EventTime",
    "HookRequest",
    "Hopping",
    "Migration",
    "Pass",
    "Refusal",
    "Refuse",
    "Request",
    "Session",
    "StatelessContext",
    "StepContext",
    "StepFailed",
    "Timer",
    "Tumbling",
    "Unit",
    "VersionConflict",
    "VersionedRows",
    "View",
    "Window",
]

_ELSEWHERE = {
    "Application": "counterfoil.application",
    "Counterfoils": "counterfoil.application",
    "HookRequest": "counterfoil.gateway.hooks",
    "Pass": "counterfoil.gateway.hooks",
    "Refusal": "counterfoil.application.web",
    "View": "counterfoil.application.queries",
    "Refuse": "counterfoil.gateway.hooks",
    "Request": "counterfoil.application",
}
"""The modules of names that are not in `counterfoil.events`."""


def __getattr__(name: str) -> Any:
    """Import a public name from its module."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_ELSEWHERE.get(name, "counterfoil.events")), name)


# The native extension's allocator reads this when it is loaded. With its default of a second, what
# idle connections have freed stays resident if little is allocated afterwards.
os.environ.setdefault("MIMALLOC_PURGE_DELAY", "100")  # milliseconds
