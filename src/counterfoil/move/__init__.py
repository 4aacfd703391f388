"""`counterfoil move`: carries an application's data from the embedded engines to the real ones."""

from counterfoil.move.errors import MoveError
from counterfoil.move.move import Moved, move

__all__ = ["MoveError", "Moved", "move"]
