"""Dead letters: events that no handler could process, kept until somebody decides.

A letter waits until it is replayed or discarded, once. The original value never changes: an edited
letter keeps it, and is replayed with its newest replacement. Each action on a letter commits
together with its audit entry and the letter's mark: so a replay without a mark did not happen, and
a marked one is never repeated, also after a crash.

A replay sends the letter to the retry topic of the pipeline that failed, or runs the handler in the
same transaction. It never goes back to the source topic, where the pipelines that succeeded would
handle it again.
"""

from counterfoil.events.dead_letters.audit import AuditEntry
from counterfoil.events.dead_letters.burial import STREAM, bury, dead_letter_topic, retry_topic
from counterfoil.events.dead_letters.handler import Handled, handle, rehearse
from counterfoil.events.dead_letters.letter import DeadLetter, State, document, readable
from counterfoil.events.dead_letters.letters import DeadLetters, Waiting
from counterfoil.events.dead_letters.replays import (
    PER_SECOND,
    Outcome,
    Pace,
    act_on_each,
    in_order,
)
from counterfoil.events.dead_letters.selection import ALL, Selection

__all__ = [
    "ALL",
    "PER_SECOND",
    "STREAM",
    "AuditEntry",
    "DeadLetter",
    "DeadLetters",
    "Handled",
    "Outcome",
    "Pace",
    "Selection",
    "State",
    "Waiting",
    "act_on_each",
    "bury",
    "dead_letter_topic",
    "document",
    "handle",
    "in_order",
    "readable",
    "rehearse",
    "retry_topic",
]
