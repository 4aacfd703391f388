"""Event sourcing: aggregates whose state is folded from their events."""

from counterfoil.events.sourcing.aggregate import Aggregate, Current
from counterfoil.events.sourcing.streams import SCHEMA, Session

__all__ = ["SCHEMA", "Aggregate", "Current", "Session"]
