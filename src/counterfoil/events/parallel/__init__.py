"""Many events of a partition at once, in order where order counts, each effect once."""

from counterfoil.events.parallel.hitters import HeavyHitters, HotKey, KeyLoad
from counterfoil.events.parallel.parallel import Order, Parallel
from counterfoil.events.parallel.runner import ParallelRunner

__all__ = ["HeavyHitters", "HotKey", "KeyLoad", "Order", "Parallel", "ParallelRunner"]
