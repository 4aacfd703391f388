"""`counterfoil move`: moves an application's data from embedded engines to external ones."""

from counterfoil.move.errors import MoveError
from counterfoil.move.move import Moved, move

__all__ = ["MoveError", "Moved", "move"]
