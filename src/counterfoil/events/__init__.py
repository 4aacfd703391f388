"""Exactly-once events, embedded or on Kafka: outbox, relay, pipelines, sagas, ledger."""

from counterfoil.events.database import Database
from counterfoil.events.dead_letters import (
    ALL,
    PER_SECOND,
    AuditEntry,
    DeadLetter,
    DeadLetters,
    Handled,
    Outcome,
    Pace,
    Selection,
    Waiting,
    act_on_each,
    handle,
    in_order,
    readable,
    rehearse,
)
from counterfoil.events.effects import Context
from counterfoil.events.engine import EmbeddedEvents, Events, KafkaEvents
from counterfoil.events.errors import (
    DeadLetterSettled,
    EventsError,
    Fenced,
    HandlerFailed,
    InvalidReplacement,
    KeyReused,
    LedgerConflict,
    LogUnavailable,
    NoHandler,
    NoSuchDeadLetter,
    NoSuchSaga,
    SnapshotMismatch,
    StoreUnavailable,
    TermOver,
    VersionConflict,
)
from counterfoil.events.inspection import lag
from counterfoil.events.ledger import Ledger, rebuilt_balances, trial_balance
from counterfoil.events.log import EventLog, ExchangeLog
from counterfoil.events.log_pipeline_runner import LogPipelineRunner
from counterfoil.events.messages import Batch, Lag, Message, Record
from counterfoil.events.outbox import OutboxReader
from counterfoil.events.outgoing import StatelessContext
from counterfoil.events.pipeline import Pipeline
from counterfoil.events.pipeline_runner import PipelineRunner
from counterfoil.events.pipeline_store import PipelineStore
from counterfoil.events.relay import Relay
from counterfoil.events.sagas import (
    Choreography,
    ChoreographyTracer,
    Happening,
    Saga,
    SagaCoordinator,
    Sagas,
    SagaView,
    StepContext,
    StepFailed,
)
from counterfoil.events.service_store import Command, Reply, ServiceStore, Unit, service_schema
from counterfoil.events.sourcing import SCHEMA as AGGREGATE_SCHEMA
from counterfoil.events.sourcing import Aggregate, Current
from counterfoil.events.topics import Topic

__all__ = [
    "AGGREGATE_SCHEMA",
    "ALL",
    "PER_SECOND",
    "Aggregate",
    "AuditEntry",
    "Batch",
    "Choreography",
    "ChoreographyTracer",
    "Command",
    "Context",
    "Current",
    "Database",
    "DeadLetter",
    "DeadLetterSettled",
    "DeadLetters",
    "EmbeddedEvents",
    "EventLog",
    "Events",
    "EventsError",
    "ExchangeLog",
    "Fenced",
    "Handled",
    "HandlerFailed",
    "Happening",
    "InvalidReplacement",
    "KafkaEvents",
    "KeyReused",
    "Lag",
    "Ledger",
    "LedgerConflict",
    "LogPipelineRunner",
    "LogUnavailable",
    "Message",
    "NoHandler",
    "NoSuchDeadLetter",
    "NoSuchSaga",
    "OutboxReader",
    "Outcome",
    "Pace",
    "Pipeline",
    "PipelineRunner",
    "PipelineStore",
    "Record",
    "Relay",
    "Reply",
    "Saga",
    "SagaCoordinator",
    "SagaView",
    "Sagas",
    "Selection",
    "ServiceStore",
    "SnapshotMismatch",
    "StatelessContext",
    "StepContext",
    "StepFailed",
    "StoreUnavailable",
    "TermOver",
    "Topic",
    "Unit",
    "VersionConflict",
    "Waiting",
    "act_on_each",
    "handle",
    "in_order",
    "lag",
    "readable",
    "rebuilt_balances",
    "rehearse",
    "service_schema",
    "trial_balance",
]
