"""Errors of the lake and its reports."""

from counterfoil.errors import CounterfoilError


class ReportsError(CounterfoilError):
    """The base of reports' errors."""


class QueryRefused(ReportsError):
    """A section's SQL uses what engines answer differently, or depends on other days."""


class UnknownFeature(ReportsError):
    """A Delta table has a feature that would be read or written wrongly."""


class AlreadyMoved(ReportsError):
    """Another process has appended some of these rows; none were appended."""


class RowRefused(ReportsError):
    """A row has a value that its table's column can't hold."""


class EngineLost(ReportsError):
    """The engine is gone; a new process starts another."""
