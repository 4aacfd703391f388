"""Imports an application from its folder."""

import importlib
import sys
from pathlib import Path

from counterfoil.application.application import Application
from counterfoil.application.configuration import ConfigurationError
from counterfoil.application.names import check_names


def load_application(folder: Path, module: str) -> Application:
    """Import the `Application` that `module` (`package.module:attribute`) names.

    Raises:
        ConfigurationError: not importable, or not an `Application`; two of its things share a name.
    """
    name, _, attribute = module.partition(":")
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    try:
        found = getattr(importlib.import_module(name), attribute or "app")
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(
            f"{folder}: can't import {module!r}: {error}",
            hint='set [application] module = "package.module:attribute"',
        ) from error
    if not isinstance(found, Application):
        raise ConfigurationError(f"{module} is a {type(found).__name__}, not an Application")
    check_names(found)
    return found
