"""Errors of coordination."""

from counterfoil.errors import CounterfoilError


class CoordinationError(CounterfoilError):
    """The base of coordination's errors."""


class Unavailable(CoordinationError):
    """The engine did not answer; the operation may or may not have happened."""


class Refused(CoordinationError):
    """The engine refused, and would refuse a retry: see the hint."""


class LeaseLost(CoordinationError):
    """The lease has ended, or may have; its keys may belong to another holder."""


class ClockWentBack(CoordinationError):
    """The wall clock went back too far to wait for."""
