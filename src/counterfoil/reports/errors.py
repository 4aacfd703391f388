"""What can go wrong with the lake and its reports."""

from counterfoil.errors import CounterfoilError


class ReportsError(CounterfoilError):
    """The root of the family."""
