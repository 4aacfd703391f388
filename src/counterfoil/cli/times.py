"""Parses and prints times; internally they are microseconds since 1970."""

import re
from datetime import UTC, datetime
from typing import Final

from counterfoil.errors import CounterfoilError

_SECONDS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_AGE: Final = re.compile(r"(\d+)([smhd])")


def parse_time(text: str, now_us: int) -> int:
    """A moment from `2026-03-01T12:30`, in UTC unless it says otherwise, or an age such as `15m`.

    Raises:
        CounterfoilError: it is neither.
    """
    if age := _AGE.fullmatch(text):
        return now_us - int(age[1]) * _SECONDS[age[2]] * 1_000_000
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise CounterfoilError(
            f"{text!r} is no time", hint="write 2026-03-01T12:30, or an age: 30s, 15m, 2h, 3d"
        ) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return int(moment.timestamp() * 1_000_000)


def time_text(time_us: int) -> str:
    """A moment for people, in UTC, to the millisecond."""
    moment = datetime.fromtimestamp(time_us // 1_000_000, UTC)
    return f"{moment:%Y-%m-%d %H:%M:%S}.{time_us // 1_000 % 1_000:03}"


def duration_text(seconds: float) -> str:
    """A duration for people, in two units at most."""
    whole = round(seconds)
    if whole < 60:
        return f"{max(seconds, 0):.1f} s" if seconds < 9.95 else f"{whole} s"
    if whole < 3_600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86_400:
        return f"{whole // 3_600} h {whole % 3_600 // 60} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3_600} h"
