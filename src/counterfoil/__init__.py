"""Counterfoil: one backbone for Python backends, from request to report, exactly once."""

from counterfoil.application import Application, Counterfoils, Request
from counterfoil.application.web import Refusal
from counterfoil.events import Context, StepContext, StepFailed, Unit

__all__ = [
    "Application",
    "Context",
    "Counterfoils",
    "Refusal",
    "Request",
    "StepContext",
    "StepFailed",
    "Unit",
]
