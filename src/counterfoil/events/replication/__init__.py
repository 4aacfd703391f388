"""The outbox by logical replication: slot, stream, decoder and reader."""

from counterfoil.events.replication.outbox import LogOutbox, ReturnedOutbox
from counterfoil.events.replication.slot import Slot

__all__ = ["LogOutbox", "ReturnedOutbox", "Slot"]
