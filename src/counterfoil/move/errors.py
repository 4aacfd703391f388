"""Errors of a move."""

from counterfoil.errors import CounterfoilError


class MoveError(CounterfoilError):
    """The move failed and nothing was switched: the application continues as before."""
