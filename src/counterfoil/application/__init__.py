"""What a user writes (declarations, configuration) and how services answer HTTP."""

from counterfoil.application.application import Application
from counterfoil.application.configuration import (
    Configuration,
    ConfigurationError,
    EnginesConfig,
)
from counterfoil.application.counterfoils import Counterfoils, Request, Workload
from counterfoil.application.loading import load_application
from counterfoil.application.reading import (
    ENGINES_VARIABLE,
    OWN_SERVERS_VARIABLE,
    at_fault,
    load,
)
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
