"""The outbox from PostgreSQL's log: a slot, its stream, what it says, and what reads it."""

from counterfoil.events.replication.outbox import LogOutbox, ReturnedOutbox
from counterfoil.events.replication.slot import Slot

__all__ = ["LogOutbox", "ReturnedOutbox", "Slot"]
