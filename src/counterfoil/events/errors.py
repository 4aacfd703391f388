"""Errors of events."""

from typing import Final

import msgspec

from counterfoil.errors import CounterfoilError


class EventsError(CounterfoilError):
    """The root of the family."""


class TermOver(EventsError):
    """A term of appending has ended; a new one finds out what became of its last append."""


class Fenced(TermOver):
    """Somebody with a newer fencing token has taken over; stop, and ask for the lead again."""


class Superseded(TermOver):
    """A pipeline runs in another number of processes now; this process can't commit any more."""


class LedgerConflict(EventsError):
    """A transfer's id is taken by a transfer with another content."""


class Overdrawn(EventsError):
    """A guarded account has not enough for a transfer or a hold; nothing was entered."""


class HoldEnded(EventsError):
    """A hold was posted, voided or expired before."""


class NoSuchEntry(EventsError):
    """There is no transfer or hold with this id."""


class KeyReused(EventsError):
    """An Idempotency-Key came back with another request."""


class StoreUnavailable(EventsError):
    """The database can't be used at the moment; the same request may be sent again."""


class MigrationRefused(EventsError):
    """A service's tables can't be brought to where its application needs them."""


class Contended(StoreUnavailable):
    """Others have written what this transaction has read, or wait for it; nothing was done."""


class LogUnavailable(EventsError):
    """The log can't be used at the moment."""


class NoSuchDeadLetter(EventsError):
    """There is no dead letter with this number."""


class DeadLetterSettled(NoSuchDeadLetter):
    """There is none that waits: it was replayed or discarded before."""


class HandlerFailed(EventsError):
    """A handler has failed on a dead letter again; nothing of what it did stays."""


class HandlerEnded(EventsError):
    """A handler has let out what ends a process or a task, and failed by that."""


class NoHandler(EventsError):
    """A dead letter's pipeline is not declared any more, or never was one."""


class InvalidReplacement(EventsError):
    """What a dead letter should be replaced with is not an event of its topic."""


class NoSuchSaga(EventsError):
    """There is no saga with this id, or it ended longer ago than sagas are kept."""


class VersionConflict(EventsError):
    """An aggregate was changed by somebody else since it was loaded."""


class SnapshotMismatch(EventsError):
    """A snapshot and the events that it stands for lead to different states."""


class NoSuchTransaction(EventsError):
    """There is no such open transaction, or none that could be aborted."""


class TaskAbandoned(EventsError):
    """A task was taken as often as it may be tried, and no worker has ended it, well or badly."""


class NotCaughtUp(EventsError):
    """A read model has not handled a write in time; a later read may see it."""


class BadToken(EventsError):
    """What was handed in is not the consistency token of a write."""


class UnmappableType(EventsError):
    """A topic's type has a field that its format can't hold without a loss."""


class InvalidEvent(EventsError):
    """An event does not fit its topic's schema, or is none that a log takes; nothing was sent."""


class UndecodableEvent(EventsError, msgspec.DecodeError):
    """Bytes that are no event of their topic, whoever reads them: they become a dead letter."""


UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding raises at bytes that are no event. The last is JSON's that is nested too deep, also
in a field that the type doesn't know: two thousand bytes, which whoever may write can write."""


class IncompatibleSchema(EventsError):
    """A topic's schema breaks with the one before; events of both could not be read by one type."""


class RegistryUnavailable(StoreUnavailable):
    """The schema registry can't be used at the moment: no event's fault; try again later."""
