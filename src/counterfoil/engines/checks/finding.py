"""A finding: the setting, its value, the needed value, and the remedy."""

from enum import StrEnum

import msgspec


class Level(StrEnum):
    """A finding's severity."""

    BREAKS = "breaks"
    """A guarantee does not hold: nothing starts until this is changed."""
    WEAKENS = "weakens"
    """A guarantee holds only until a machine is lost."""
    UNKNOWN = "unknown"
    """It can't be determined here: ask the engine's operator."""


class Finding(msgspec.Struct, frozen=True):
    """A setting or a state that differs from what is needed."""

    engine: str
    level: Level
    setting: str
    found: str
    needed: str
    remedy: str


CLOCK_SECONDS = 5.0
"""The largest allowed difference between clocks: ids and events' times come from both."""


def clock(engine: str, theirs: float, now: float) -> list[Finding]:
    """A finding if a server's clock differs too much from the local one."""
    apart = theirs - now
    if abs(apart) <= CLOCK_SECONDS:
        return []
    found = f"{abs(apart):.0f} s {'ahead' if apart > 0 else 'behind'}"
    return [
        Finding(
            engine,
            Level.BREAKS,
            "clock",
            found,
            f"at most {CLOCK_SECONDS:.0f} s apart",
            "run NTP (chrony) on both machines",
        )
    ]


def unreachable(engine: str, address: str, error: object, remedy: str) -> list[Finding]:
    """The finding that the engine can't be checked."""
    return [Finding(engine, Level.BREAKS, "address", f"{address}: {error}", "an answer", remedy)]
