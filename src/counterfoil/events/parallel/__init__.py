"""Parallel pipelines: many events of a partition at once, in order by key, effects once."""

from counterfoil.events.parallel.hitters import HeavyHitters, HotKey, KeyLoad
from counterfoil.events.parallel.parallel import Order, Parallel
from counterfoil.events.parallel.runner import ParallelRunner

__all__ = ["HeavyHitters", "HotKey", "KeyLoad", "Order", "Parallel", "ParallelRunner"]
