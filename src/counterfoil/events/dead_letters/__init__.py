"""Dead letters: events that no handler could process, kept until somebody decides.

A letter waits until it is replayed or discarded, once. What came in never changes: a letter that is
edited keeps its original, and goes on with its newest replacement. Whatever is done to a letter is
one commit with its line of the audit, and with its mark: a replay that is not marked did not
happen, and one that is marked is not done again, whoever asks and whatever dies.

A replay sends the letter to the retry topic of the pipeline that failed, or hands it to the
handler in that very transaction. It never goes back to the source topic, where the pipelines that
had no trouble with it would handle it a second time.
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
