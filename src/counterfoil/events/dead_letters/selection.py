"""Filters of dead letters, combined by AND, as SQL for both databases."""

from typing import Final

import msgspec

from counterfoil.events.dead_letters.letter import State

_STATES: Final[dict[State, str]] = {
    "waiting": "d.replayed_us IS NULL AND d.discarded_us IS NULL",
    "replayed": "d.replayed_us IS NOT NULL",
    "discarded": "d.discarded_us IS NOT NULL",
}


class Selection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A filter of dead letters; None means any value."""

    pipeline: str | None = None
    topic: str | None = None
    key: str | None = None
    error: str | None = None
    """A substring of the error, case-insensitive."""
    since_us: int | None = None
    """Failed at this time or later, in microseconds since 1970."""
    until_us: int | None = None
    """Failed before this time."""
    state: State | None = None

    @property
    def is_everything(self) -> bool:
        """Whether there is no filter, except perhaps for the state."""
        return msgspec.structs.replace(self, state=None) == ALL

    def where(self) -> tuple[str, list[object]]:
        """An SQL condition on `dead_letters` with the alias `d`, and its parameters."""
        conditions: list[str] = []
        parameters: list[object] = []
        for condition, value in (
            ("d.pipeline = ?", self.pipeline),
            ("d.topic = ?", self.topic),
            ("d.key = ?", self.key),
            ("instr(lower(d.error), lower(?)) > 0", self.error),
            ("d.failed_us >= ?", self.since_us),
            ("d.failed_us < ?", self.until_us),
        ):
            if value is not None:
                conditions.append(condition)
                parameters.append(value)
        if self.state is not None:
            conditions.append(_STATES[self.state])
        return " AND ".join(conditions) or "1 = 1", parameters

    def __str__(self) -> str:
        given = msgspec.structs.asdict(self)
        return ", ".join(f"{name}={value}" for name, value in given.items() if value is not None)


ALL: Final = Selection()
