"""The audit log of dead letters, written in the transaction that it records."""

from typing import Literal

import msgspec

from counterfoil.events.database import Database

Action = Literal["edit", "replay", "handle", "discard"]


class AuditEntry(msgspec.Struct, frozen=True):
    """One action on one letter."""

    id: int
    letter: int
    at_us: int
    """Microseconds since 1970."""
    actor: str
    action: Action
    detail: str
    value: bytes | None
    """The replacement, if the action is an edit."""


def note(
    database: Database,
    letter: int,
    action: Action,
    *,
    actor: str,
    now_us: int,
    detail: str = "",
    value: bytes | None = None,
) -> None:
    """Write an entry, in the transaction of the action."""
    database.execute(
        "INSERT INTO dead_letter_audit (letter, at_us, actor, action, detail, value) "
        "VALUES (?, ?, ?, ?, ?, ?)",
        (letter, now_us, actor, action, detail, value),
    )


def entries(
    database: Database, *, letter: int | None, before: int | None, limit: int
) -> list[AuditEntry]:
    """The newest entries, of one letter or of all; `before` is the id of the last one seen."""
    conditions, parameters = ["1 = 1"], list[object]()
    for condition, value in (("letter = ?", letter), ("id < ?", before)):
        if value is not None:
            conditions.append(condition)
            parameters.append(value)
    rows = database.execute(
        "SELECT id, letter, at_us, actor, action, detail, value FROM dead_letter_audit "  # noqa: S608
        f"WHERE {' AND '.join(conditions)} ORDER BY id DESC LIMIT ?",
        (*parameters, limit),
    )
    return [AuditEntry(*row) for row in rows]
