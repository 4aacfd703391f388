"""Errors of the lake and its reports."""

from counterfoil.errors import CounterfoilError


class ReportsError(CounterfoilError):
    """The root of the family."""


class QueryRefused(ReportsError):
    """A section's SQL uses what engines answer differently, or looks beyond a day."""


class UnknownFeature(ReportsError):
    """A Delta table has a feature that would be read or written wrongly here."""


class AlreadyMoved(ReportsError):
    """Another process has appended some of the same rows; nothing was, of these."""


class RowRefused(ReportsError):
    """A row has a value that its table's column can't hold."""


class EngineLost(ReportsError):
    """The engine is gone; a new process starts a new one."""
