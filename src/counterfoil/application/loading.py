"""Imports an application from its folder."""

import importlib
import sys
import traceback
from pathlib import Path

from counterfoil.application.application import Application
from counterfoil.application.configuration import ConfigurationError
from counterfoil.application.names import check_names
from counterfoil.errors import CounterfoilError


def load_application(folder: Path, module: str) -> Application:
    """Import the `Application` that `module` (`package.module:attribute`) names.

    Raises:
        ConfigurationError: there is no such module or attribute, its code raises, it is not an
            `Application`, or two of its declarations share a name.
        CounterfoilError: a declaration in it was refused.
    """
    name, _, attribute = module.partition(":")
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    try:
        found = getattr(_import(folder, name), attribute or "app")
    except (_NoSuchModule, AttributeError) as error:
        raise ConfigurationError(
            f"{folder}: can't import {module!r}: {error}",
            hint='set [application] module = "package.module:attribute"',
        ) from error
    if not isinstance(found, Application):
        raise ConfigurationError(f"{module} is a {type(found).__name__}, not an Application")
    check_names(found)
    return found


class _NoSuchModule(Exception):
    """The module itself or one of its parent packages is missing; not a module that it imports."""


def _import(folder: Path, name: str) -> object:
    try:
        return importlib.import_module(name)
    except CounterfoilError:
        raise
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}."):
            raise _NoSuchModule(str(error)) from error
        raise ConfigurationError(
            f"{_place(folder, error)}: {type(error).__name__}: {_message(error)}",
            hint=_hint(error),
        ) from error


def _place(folder: Path, error: Exception) -> str:
    """The application's own line nearest to where `error` was raised."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}"
    own = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).is_relative_to(folder)
    ]
    return f"{own[-1].filename}, line {own[-1].lineno}" if own else str(folder)


def _message(error: Exception) -> str:
    return error.msg if isinstance(error, SyntaxError) else str(error)


def _hint(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError):
        return f"install what provides {error.name}, or correct its name"
    return "correct the application; `python FILE` shows the whole traceback"
