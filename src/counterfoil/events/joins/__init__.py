"""Joins: pairs of events of two topics with equal keys and close event times."""

from counterfoil.events.joins.joined import Joined, Kind

__all__ = ["Joined", "Kind"]
