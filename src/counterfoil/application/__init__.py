"""What a user writes, and how it is read: the declaration, its configuration, its web side."""

from counterfoil.application.application import Application
from counterfoil.application.configuration import (
    ENGINES_VARIABLE,
    OWN_SERVERS_VARIABLE,
    Configuration,
    ConfigurationError,
    EnginesConfig,
    at_fault,
    load,
)
from counterfoil.application.counterfoils import Counterfoils, Request, Workload
from counterfoil.application.loading import load_application
from counterfoil.application.service import Service
from counterfoil.application.state import StateFolder

__all__ = [
    "ENGINES_VARIABLE",
    "OWN_SERVERS_VARIABLE",
    "Application",
    "Configuration",
    "ConfigurationError",
    "Counterfoils",
    "EnginesConfig",
    "Request",
    "Service",
    "StateFolder",
    "Workload",
    "at_fault",
    "load",
    "load_application",
]
