"""Dead letters: what no handler could take, kept whole until somebody decides.

A replay copies the letter into the retry queue of the pipeline that failed, and marks it in the
same commit. It never goes back to the source topic, where the pipelines that had no trouble with
it would handle it a second time.
"""

import json
from builtins import list as List
from typing import Any

import msgspec

from counterfoil.events.errors import NoSuchDeadLetter
from counterfoil.events.log import EmbeddedLog
from counterfoil.events.messages import Message
from counterfoil.events.sqlite import transaction


class DeadLetter(msgspec.Struct, frozen=True):
    """A dead letter with its error and where it came from."""

    id: int
    pipeline: str
    topic: str
    partition: int
    offset: int
    event_id: int
    key: str
    value: bytes
    headers: dict[str, str]
    error: str
    traceback: str
    tries: int
    failed_us: int
    replayed_us: int | None


class DeadLetters:
    """The dead letters of all pipelines of a log."""

    def __init__(self, log: EmbeddedLog) -> None:
        self._log = log

    def list(self, *, pipeline: str | None = None, limit: int = 100) -> List[DeadLetter]:
        """The newest dead letters, of one pipeline or of all."""
        return [
            _letter(row)
            for row in self._log.connection.execute(
                "SELECT * FROM dead_letters WHERE ?1 IS NULL OR pipeline = ?1 "
                "ORDER BY id DESC LIMIT ?2",
                (pipeline, limit),
            )
        ]

    def show(self, number: int) -> DeadLetter:
        """One dead letter.

        Raises:
            NoSuchDeadLetter: there is none with this number.
        """
        row = self._log.connection.execute(
            "SELECT * FROM dead_letters WHERE id = ?", (number,)
        ).fetchone()
        if row is None:
            raise NoSuchDeadLetter(
                f"there is no dead letter {number}", hint="see `counterfoil events dlq list`"
            )
        return _letter(row)

    def replay(self, number: int, now_us: int) -> None:
        """Hand a dead letter to its pipeline again, once.

        Raises:
            NoSuchDeadLetter: there is none with this number, or it was replayed before.
        """
        with transaction(self._log.connection):
            letter = self.show(number)
            if letter.replayed_us is not None:
                raise NoSuchDeadLetter(f"dead letter {number} was replayed before")
            self._log.insert(
                [
                    Message(
                        letter.event_id,
                        f"{letter.pipeline}.retries",
                        letter.key,
                        letter.value,
                        {**letter.headers, "dead-letter": str(number)},
                        now_us,
                    )
                ]
            )
            self._log.connection.execute(
                "UPDATE dead_letters SET replayed_us = ? WHERE id = ?", (now_us, number)
            )


def _letter(row: tuple[Any, ...]) -> DeadLetter:
    values = List(row)
    values[8] = json.loads(values[8])
    return DeadLetter(*values)
