"""Counterfoil: one backbone for Python backends, from request to report, exactly once."""
