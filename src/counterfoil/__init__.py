"""Counterfoil: one backbone for Python backends, from request to report, exactly once."""

from counterfoil.application import Application, Counterfoils, Request
from counterfoil.application.web import Refusal
from counterfoil.events import (
    AGGREGATE_SCHEMA,
    Aggregate,
    Context,
    StatelessContext,
    StepContext,
    StepFailed,
    Unit,
    VersionConflict,
    VersionedRows,
)
from counterfoil.gateway.hooks import HookRequest, Pass, Refuse

__all__ = [
    "AGGREGATE_SCHEMA",
    "Aggregate",
    "Application",
    "Context",
    "Counterfoils",
    "HookRequest",
    "Pass",
    "Refusal",
    "Refuse",
    "Request",
    "StatelessContext",
    "StepContext",
    "StepFailed",
    "Unit",
    "VersionConflict",
    "VersionedRows",
]
