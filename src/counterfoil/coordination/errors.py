"""Errors of coordination."""

from counterfoil.errors import CounterfoilError


class CoordinationError(CounterfoilError):
    """The root of the family."""


class Unavailable(CoordinationError):
    """The engine did not answer; what was asked may or may not have happened."""


class Refused(CoordinationError):
    """The engine answered, and a retry would get the same answer: see the hint."""


class LeaseLost(CoordinationError):
    """The lease has ended, or may have ended; what hung on it is somebody else's now."""


class ClockWentBack(CoordinationError):
    """The wall clock went back by more than can be waited for."""
