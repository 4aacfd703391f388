"""What a user writes, and how it is read: the declaration, its configuration, its web side."""

from counterfoil.application.application import (
    Application,
    Counterfoils,
    Request,
    Service,
    Workload,
    load_application,
)
from counterfoil.application.configuration import (
    ENGINES_VARIABLE,
    Configuration,
    ConfigurationError,
    EnginesConfig,
    load,
)
from counterfoil.application.state import StateFolder

__all__ = [
    "ENGINES_VARIABLE",
    "Application",
    "Configuration",
    "ConfigurationError",
    "Counterfoils",
    "EnginesConfig",
    "Request",
    "Service",
    "StateFolder",
    "Workload",
    "load",
    "load_application",
]
