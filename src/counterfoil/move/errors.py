"""Errors of a move."""

from counterfoil.errors import CounterfoilError


class MoveError(CounterfoilError):
    """Nothing was switched: the application goes on as it was."""
