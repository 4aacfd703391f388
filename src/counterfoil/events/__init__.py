"""Exactly-once events on an embedded log: outbox, relay, pipelines, ledger, dead letters."""

from counterfoil.events.dead_letters import DeadLetter, DeadLetters
from counterfoil.events.errors import (
    EventsError,
    Fenced,
    KeyReused,
    LedgerConflict,
    NoSuchDeadLetter,
    StoreUnavailable,
)
from counterfoil.events.ledger import Ledger, rebuilt_balances, trial_balance
from counterfoil.events.log import EmbeddedLog
from counterfoil.events.messages import Lag, Message, Record
from counterfoil.events.outbox import OutboxReader
from counterfoil.events.pipeline import Context, Pipeline, PipelineRunner
from counterfoil.events.relay import Relay
from counterfoil.events.service_store import Command, Reply, ServiceStore, Unit
from counterfoil.events.topics import Topic

__all__ = [
    "Command",
    "Context",
    "DeadLetter",
    "DeadLetters",
    "EmbeddedLog",
    "EventsError",
    "Fenced",
    "KeyReused",
    "Lag",
    "Ledger",
    "LedgerConflict",
    "Message",
    "NoSuchDeadLetter",
    "OutboxReader",
    "Pipeline",
    "PipelineRunner",
    "Record",
    "Relay",
    "Reply",
    "ServiceStore",
    "StoreUnavailable",
    "Topic",
    "Unit",
    "rebuilt_balances",
    "trial_balance",
]
