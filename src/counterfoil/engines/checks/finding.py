"""A finding: the setting, its value, the needed value, and the remedy."""

from enum import StrEnum

import msgspec


class Level(StrEnum):
    """How bad a finding is."""

    BREAKS = "breaks"
    """A promise does not hold: nothing starts before it is changed."""
    WEAKENS = "weakens"
    """A promise holds until some machine is lost."""
    UNKNOWN = "unknown"
    """Whether it holds is not told: somebody else must be asked."""


class Finding(msgspec.Struct, frozen=True):
    """One thing that is not as it should be."""

    engine: str
    level: Level
    setting: str
    found: str
    needed: str
    remedy: str


CLOCK_SECONDS = 5.0
"""How far apart two clocks may be: ids and times of events come from both."""


def clock(engine: str, theirs: float, now: float) -> list[Finding]:
    """A finding if a server's clock is not like ours."""
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
    """The finding that there is nothing to find."""
    return [Finding(engine, Level.BREAKS, "address", f"{address}: {error}", "an answer", remedy)]
