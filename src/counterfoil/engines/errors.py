"""Errors of the servers of real engines."""

from counterfoil.errors import CounterfoilError


class EngineError(CounterfoilError):
    """The root of the family."""


class NotInstalled(EngineError):
    """A program that an engine needs is missing, and could not be fetched."""


class DidNotAnswer(EngineError):
    """A server was started, but ended or did not answer in time."""
