"""What can go wrong with events."""

from counterfoil.errors import CounterfoilError


class EventsError(CounterfoilError):
    """The root of the family."""


class Fenced(EventsError):
    """Somebody with a newer fencing token has taken over; stop, and ask for the lead again."""


class LedgerConflict(EventsError):
    """A transfer's id is taken by a transfer with another content."""


class KeyReused(EventsError):
    """An Idempotency-Key came back with another request."""


class StoreUnavailable(EventsError):
    """Nothing was written and nothing was promised; the same request may be sent again."""


class NoSuchDeadLetter(EventsError):
    """There is no dead letter with this number, or it was replayed before."""
