"""When a certificate is ordered, renewed and tried again: pure, with the time and chance passed in.

A certificate is renewed when its directory says so (ACME Renewal Information, RFC 9773), or else
after two thirds of its life, as Let's Encrypt asks for. The moment is drawn once and written down:
drawn anew at each look, the earliest draw would win, and all gateways would come at the same time.

What fails is tried again later and later. The numbers keep below what Let's Encrypt takes, which is
the strictest of the public directories: five failed proofs of a name an hour, 300 orders of an
account in three hours. A directory that doesn't answer has nothing to count, so it is asked sooner.

Times are in seconds since 1970, draws are from 0 to 1.
"""

from typing import Final

import msgspec

RENEWAL_SHARE: Final = 2 / 3
"""Of a certificate's life, after which it is renewed at the latest if its directory says nothing:
with 90 days there are 30 left in which it may fail."""
JITTER_SHARE: Final = 1 / 20
"""Of its life, by which that may be sooner."""
LAST_SHARE: Final = 1 / 10
"""Of its life, which is left at least, whatever the directory says."""
REST_SECONDS: Final = 3600.0
"""After a certificate was issued it is not renewed for so long, or for a third of its life if that
is shorter: a directory that always says "now" would be asked without an end."""
ASK_SECONDS: Final = (60.0, 86_400.0)
"""Between two questions about renewal, whatever the directory says (RFC 9773, section 4.3.2)."""
ASK_AGAIN_SECONDS: Final = 6 * 3600.0
"""After a question that was not answered (RFC 9773, section 4.3.3)."""
FURTHEST_SECONDS: Final = 2 * 86_400.0
"""Longer than any wait: twice that for the next question about renewal, which is the longest."""


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """How soon what failed is tried again: twice as long after each failure, up to a limit."""

    refused_seconds: float = 300.0
    """After a refusal: tries at 0, 5, 15, 35 and 75 minutes, so four in any hour."""
    refused_longest_seconds: float = 12 * 3600.0
    limited_seconds: float = 3600.0
    """After a refusal for having asked too often, at least."""
    unavailable_seconds: float = 30.0
    """After no answer."""
    unavailable_longest_seconds: float = 3600.0
    spread: float = 0.1
    """By which share a wait is longer, at most, so that not all come back at once."""

    def refused(self, failures: int, draw: float, *, limited: bool = False) -> float:
        """Seconds to wait after so many failures in a row (at least 1), of which the last was a
        refusal; `limited` if it was for having asked too often."""
        wait = self._grown(self.refused_seconds, self.refused_longest_seconds, failures)
        return max(wait, self.limited_seconds if limited else 0.0) * (1 + self.spread * draw)

    def unavailable(self, failures: int, draw: float) -> float:
        """The same where the directory did not answer."""
        wait = self._grown(self.unavailable_seconds, self.unavailable_longest_seconds, failures)
        return wait * (1 + self.spread * draw)

    @staticmethod
    def _grown(first: float, longest: float, failures: int) -> float:
        return min(first * 2 ** min(failures - 1, 30), longest)


class Allowance:
    """Orders that may be made now: a bucket, so that many names don't all order at once.

    With 100 more than `burst` at the beginning, 280 are made in three hours at most.
    """

    def __init__(self, *, burst: int = 100, seconds: float = 60.0) -> None:
        self._burst = burst
        self._seconds = seconds
        self._full_at = 0.0

    def wait(self, now: float) -> float:
        """Seconds until one may be made; 0 takes it."""
        # Never further than when all were made just now: the clock may have been set back.
        full_at = min(max(self._full_at, now), now + self._burst * self._seconds)
        self._full_at = full_at
        wait = full_at + self._seconds - now - self._burst * self._seconds
        if wait > 0:
            return wait
        self._full_at = full_at + self._seconds
        return 0.0


def by_lifetime(issued_at: float, lifetime: tuple[float, float], draw: float) -> float:
    """When to renew a certificate whose directory says nothing of it.

    `lifetime` is from when until when it is good. Directories date it back, by an hour say, so
    `issued_at` is when it came.
    """
    not_before, not_after = lifetime
    chosen = not_before + (not_after - not_before) * (RENEWAL_SHARE - JITTER_SHARE * draw)
    return max(chosen, _rested(issued_at, lifetime))


def by_window(
    window: tuple[float, float], issued_at: float, lifetime: tuple[float, float], draw: float
) -> float:
    """When to renew a certificate whose directory suggests a `window` (RFC 9773, section 4.2).

    `lifetime` and `issued_at` are as for `by_lifetime`.
    """
    start, end = window
    not_before, not_after = lifetime
    chosen = start + max(0.0, end - start) * draw
    last = not_after - (not_after - not_before) * LAST_SHARE
    return max(min(chosen, last), _rested(issued_at, lifetime))


def _rested(issued_at: float, lifetime: tuple[float, float]) -> float:
    """When a certificate may be renewed at the earliest, however little of its life is left: a
    directory that gives such ones would be asked without an end."""
    not_before, not_after = lifetime
    return issued_at + min(REST_SECONDS, (not_after - not_before) / 3)


def is_believed(at: float, now: float) -> bool:
    """Whether a moment that was written down to wait for can have been meant: no wait is as long as
    `FURTHEST_SECONDS`, so one that is further away is a clock's that was wrong."""
    return at <= now + FURTHEST_SECONDS


def ask_again(said_seconds: float) -> float:
    """In how many seconds to ask about renewal again, by what the directory said."""
    shortest, longest = ASK_SECONDS
    return min(max(said_seconds, shortest), longest)
