"""The dead letters of a store: queries, edits, replays, discards."""

from builtins import list as List
from typing import Final

import msgspec

from counterfoil.events.dead_letters.audit import Action, AuditEntry, entries, note
from counterfoil.events.dead_letters.burial import retry_topic
from counterfoil.events.dead_letters.letter import COLUMNS, DeadLetter, letter_of
from counterfoil.events.dead_letters.selection import ALL, Selection
from counterfoil.events.errors import (
    UNREADABLE,
    DeadLetterSettled,
    InvalidEvent,
    InvalidReplacement,
    NoSuchDeadLetter,
)
from counterfoil.events.messages import Message
from counterfoil.events.pipeline_store import PipelineStore
from counterfoil.events.topics import AnyTopic

PAGE: Final = 100


class Waiting(msgspec.Struct, frozen=True):
    """The letters of a pipeline that wait for a decision."""

    pipeline: str
    letters: int
    oldest_us: int
    newest_us: int


class DeadLetters:
    """The dead letters of all pipelines of a store; `actor` is recorded in the audit."""

    def __init__(self, store: PipelineStore, *, actor: str = "program") -> None:
        self.store = store
        self._database = store.database
        self._actor = actor

    def list(
        self, selection: Selection = ALL, *, before: int | None = None, limit: int = PAGE
    ) -> List[DeadLetter]:
        """Letters, the newest first; `before` is the id of the previous page's last one."""
        where, parameters = selection.where()
        if before is not None:
            where, parameters = f"{where} AND d.id < ?", [*parameters, before]
        return self._read(f"WHERE {where} ORDER BY d.id DESC LIMIT ?", *parameters, limit)

    def in_order(
        self, selection: Selection = ALL, *, after: int, last: int, limit: int = PAGE
    ) -> List[DeadLetter]:
        """Letters in the order of their failures, with `after < id <= last`."""
        where, parameters = selection.where()
        where += " AND d.id > ? AND d.id <= ?"
        return self._read(f"WHERE {where} ORDER BY d.id LIMIT ?", *parameters, after, last, limit)

    def count(self, selection: Selection = ALL) -> tuple[int, int]:
        """The number of letters, and the id of the newest, 0 if there are none."""
        where, parameters = selection.where()
        return self._database.execute(
            f"SELECT count(*), coalesce(max(d.id), 0) FROM dead_letters AS d WHERE {where}",  # noqa: S608
            parameters,
        ).fetchone()

    def waiting(self) -> List[Waiting]:
        """The pipelines with letters that wait for a decision."""
        rows = self._database.execute(
            "SELECT pipeline, count(*), min(failed_us), max(failed_us) FROM dead_letters "
            "WHERE replayed_us IS NULL AND discarded_us IS NULL GROUP BY pipeline ORDER BY pipeline"
        )
        return [Waiting(*row) for row in rows]

    def show(self, number: int) -> DeadLetter:
        """One dead letter.

        Raises:
            NoSuchDeadLetter: there is none with this number.
        """
        found = self._read("WHERE d.id = ?", number)
        if not found:
            raise NoSuchDeadLetter(
                f"there is no dead letter {number}", hint="see `counterfoil events dlq list`"
            )
        return found[0]

    def edit(self, number: int, replacement: bytes, topic: AnyTopic, now_us: int) -> None:
        """Replace a letter's value; the original is kept.

        The replacement may be JSON in any topic.

        Raises:
            NoSuchDeadLetter: there is none with this number.
            DeadLetterSettled: it was replayed or discarded before.
            InvalidReplacement: it is not an event of `topic`.
        """
        try:
            replacement = topic.from_json(replacement)
        except (*UNREADABLE, InvalidEvent) as error:
            raise InvalidReplacement(
                f"not an event of {topic.name} ({topic.type.__name__}): {error}",
                hint="nothing was changed",
            ) from error
        with self._database.transaction():
            self._take(number, "UPDATE dead_letters SET tries = tries")
            self._note(number, "edit", now_us, value=replacement)

    def replay(self, number: int, now_us: int) -> None:
        """Send a dead letter to its pipeline's retry topic, once.

        Raises:
            NoSuchDeadLetter: there is none with this number.
            DeadLetterSettled: it was replayed or discarded before.
        """
        with self._database.transaction():
            self.mark_replayed(number, now_us)
            letter = self.show(number)
            topic = retry_topic(letter.pipeline)
            again = letter.record
            self._note(number, "replay", now_us, detail=f"to {topic}")
            self.store.send(
                [Message(again.event_id, topic, again.key, again.value, again.headers, now_us)]
            )

    def discard(self, number: int, reason: str, now_us: int) -> None:
        """Mark a letter as never to be handled; it is kept, with the reason.

        Raises:
            NoSuchDeadLetter: there is none with this number.
            DeadLetterSettled: it was replayed or discarded before.
            ValueError: no reason was given.
        """
        if not reason.strip():
            raise ValueError("a letter is discarded for a reason")
        with self._database.transaction():
            self._take(number, "UPDATE dead_letters SET discarded_us = ?", now_us)
            self._note(number, "discard", now_us, detail=reason.strip())

    def audit(
        self, letter: int | None = None, *, before: int | None = None, limit: int = PAGE
    ) -> List[AuditEntry]:
        """Audit entries, the newest first; `before` is the id of the last one seen."""
        return entries(self._database, letter=letter, before=before, limit=limit)

    def mark_replayed(self, number: int, now_us: int) -> None:
        """Mark a letter; call it first in the transaction that replays it.

        Raises:
            NoSuchDeadLetter: there is none with this number.
            DeadLetterSettled: it was replayed or discarded before.
        """
        self._take(number, "UPDATE dead_letters SET replayed_us = ?", now_us)

    def note_handled(self, number: int, now_us: int, detail: str) -> None:
        """Record that a handler has handled a letter, in the transaction of its effects."""
        self._note(number, "handle", now_us, detail=detail)

    def _take(self, number: int, update: str, *parameters: object) -> None:
        """Update a waiting letter's row; a concurrent second caller waits here, and then fails."""
        taken = self._database.execute(
            f"{update} WHERE id = ? AND replayed_us IS NULL AND discarded_us IS NULL",
            (*parameters, number),
        )
        if taken.rowcount == 0:
            raise DeadLetterSettled(f"dead letter {number} was {self.show(number).state} before")

    def _note(
        self,
        number: int,
        action: Action,
        now_us: int,
        *,
        detail: str = "",
        value: bytes | None = None,
    ) -> None:
        note(
            self._database,
            number,
            action,
            actor=self._actor,
            now_us=now_us,
            detail=detail,
            value=value,
        )

    def _read(self, rest: str, *parameters: object) -> List[DeadLetter]:
        rows = self._database.execute(
            f"SELECT {COLUMNS} FROM dead_letters AS d {rest}",  # noqa: S608
            parameters,
        )
        return [letter_of(row) for row in rows]
