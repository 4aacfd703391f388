"""Errors of events."""

from typing import Final

import msgspec

from counterfoil.errors import CounterfoilError


class EventsError(CounterfoilError):
    """The base class of errors of events."""


class TermOver(EventsError):
    """A term has ended; a new one finds out the outcome of its last append or commit."""


class Fenced(TermOver):
    """A newer fencing token or term has taken over; stop, and campaign for leadership again."""


class Superseded(TermOver):
    """A pipeline runs in another number of processes now; this process can't commit any more."""


class LedgerConflict(EventsError):
    """An entry conflicts with an earlier one, such as another transfer with the same id."""


class Overdrawn(EventsError):
    """A transfer or hold would overdraw a guarded account; nothing was entered."""


class HoldEnded(EventsError):
    """A hold was posted or voided, or has expired."""


class NoSuchEntry(EventsError):
    """There is no transfer or hold with this id."""


class KeyReused(EventsError):
    """An Idempotency-Key was reused with a different request."""


class StoreUnavailable(EventsError):
    """The database can't be used at the moment; the request may be retried."""


class MigrationRefused(EventsError):
    """A migration is invalid, has failed, or conflicts with what was applied."""


class Contended(StoreUnavailable):
    """A transaction conflicted or deadlocked with another one; nothing was done."""


class LogUnavailable(EventsError):
    """The log can't be used at the moment."""


class NoSuchDeadLetter(EventsError):
    """There is no dead letter with this number."""


class DeadLetterSettled(NoSuchDeadLetter):
    """The dead letter was replayed or discarded before."""


class HandlerFailed(EventsError):
    """A handler has failed on a dead letter again; its effects were rolled back."""


class HandlerEnded(EventsError):
    """A handler has failed with an exception that would end a process or an asyncio task."""


class NoHandler(EventsError):
    """A dead letter's pipeline is no longer declared, or never was."""


class InvalidReplacement(EventsError):
    """A dead letter's replacement is not an event of its topic."""


class NoSuchSaga(EventsError):
    """There is no saga with this id, or it was deleted by retention."""


class VersionConflict(EventsError):
    """An aggregate has changed since it was loaded."""


class SnapshotMismatch(EventsError):
    """A snapshot differs from the replay of its events."""


class NoSuchTransaction(EventsError):
    """There is no such open transaction, or it can't be aborted."""


class TaskAbandoned(EventsError):
    """A task was taken as often as it may be tried, and no worker has finished it."""


class NotCaughtUp(EventsError):
    """A read model has not handled a write in time; a later read may see it."""


class BadToken(EventsError):
    """Not the consistency token of a write."""


class UnmappableType(EventsError):
    """A topic's type has a field that its format can't represent without loss."""


class InvalidEvent(EventsError):
    """An event does not fit its topic's schema, or exceeds the log's limits; nothing was sent."""


class UndecodableEvent(EventsError, msgspec.DecodeError):
    """Bytes that are no event of their topic for any reader: they become a dead letter."""


UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding raises for bytes that are no event. RecursionError is for JSON that is nested too
deep, even in a field that the type doesn't have: two thousand bytes suffice for it."""


class IncompatibleSchema(EventsError):
    """A topic's schema is incompatible with its last one, by the topic's rule."""


class RegistryUnavailable(StoreUnavailable):
    """The schema registry can't be used at the moment; try again later."""
