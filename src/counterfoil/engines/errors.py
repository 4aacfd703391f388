"""Errors of engines' servers."""

from counterfoil.errors import CounterfoilError


class EngineError(CounterfoilError):
    """The base of engines' errors."""


class NotInstalled(EngineError):
    """A program that an engine needs is missing, and could not be installed."""


class DidNotAnswer(EngineError):
    """A server was started, but ended or was not ready in time."""
