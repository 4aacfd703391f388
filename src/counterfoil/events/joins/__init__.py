"""Joins: events of two topics that belong together, by key and by how far apart they happened."""

from counterfoil.events.joins.joined import Joined, Kind

__all__ = ["Joined", "Kind"]
