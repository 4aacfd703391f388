"""Windows: aggregation of a key's events over event time."""

from counterfoil.events.windows.open_windows import Window
from counterfoil.events.windows.shapes import Hopping, Session, Shape, Tumbling
from counterfoil.events.windows.windowed import Emit, Windowed

__all__ = ["Emit", "Hopping", "Session", "Shape", "Tumbling", "Window", "Windowed"]
