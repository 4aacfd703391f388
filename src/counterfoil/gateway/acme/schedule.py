"""When a certificate is ordered, renewed and retried: pure functions of time and random draws.

A certificate is renewed when its directory says so (ACME Renewal Information, RFC 9773), or else
after two thirds of its lifetime, as Let's Encrypt recommends. The time is drawn once and stored:
if it were drawn at each check, the earliest draw would win, and all gateways would renew together.

Failures are retried with exponential backoff. The numbers stay below the limits of Let's Encrypt,
the strictest of the public directories: five failed validations of a name per hour, 300 orders of
an account in three hours. An unanswered request counts against none, so it is retried sooner.

Times are in seconds since 1970, draws are from 0 to 1.
"""

from typing import Final

import msgspec

RENEWAL_SHARE: Final = 2 / 3
"""The share of a certificate's lifetime after which it is renewed at the latest, if its directory
gives no time: of 90 days, 30 are left for retries."""
JITTER_SHARE: Final = 1 / 20
"""The share of the lifetime by which that may be earlier."""
LAST_SHARE: Final = 1 / 10
"""The share of the lifetime that is always left at renewal, whatever the directory says."""
REST_SECONDS: Final = 3600.0
"""The least time between issue and renewal, or a third of the lifetime if that is shorter:
otherwise a directory that always says "now" would be asked endlessly."""
ASK_SECONDS: Final = (60.0, 86_400.0)
"""The range of intervals between renewal queries, whatever the directory says (RFC 9773, section
4.3.2)."""
ASK_AGAIN_SECONDS: Final = 6 * 3600.0
"""The interval after a failed renewal query (RFC 9773, section 4.3.3)."""
FURTHEST_SECONDS: Final = 2 * 86_400.0
"""Longer than any wait: twice the longest one, that for the next renewal query."""


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """The backoff after failures: doubled after each one, up to a limit."""

    refused_seconds: float = 300.0
    """After a refusal: attempts at 0, 5, 15, 35 and 75 minutes, so four in any hour."""
    refused_longest_seconds: float = 12 * 3600.0
    limited_seconds: float = 3600.0
    """The least wait after a rate limit."""
    unavailable_seconds: float = 30.0
    """After no answer."""
    unavailable_longest_seconds: float = 3600.0
    spread: float = 0.1
    """The largest share by which a wait is extended at random, to spread retries."""

    def refused(self, failures: int, draw: float, *, limited: bool = False) -> float:
        """Seconds to wait after a refusal, the last of `failures` in a row (at least 1); `limited`
        if a rate limit was its reason."""
        wait = self._grown(self.refused_seconds, self.refused_longest_seconds, failures)
        return max(wait, self.limited_seconds if limited else 0.0) * (1 + self.spread * draw)

    def unavailable(self, failures: int, draw: float) -> float:
        """As `refused`, for a directory that did not answer."""
        wait = self._grown(self.unavailable_seconds, self.unavailable_longest_seconds, failures)
        return wait * (1 + self.spread * draw)

    @staticmethod
    def _grown(first: float, longest: float, failures: int) -> float:
        return min(first * 2 ** min(failures - 1, 30), longest)


class Allowance:
    """A token bucket of orders, so that many names don't all order at once.

    By default it allows 280 orders in three hours: a burst of 100, and one a minute.
    """

    def __init__(self, *, burst: int = 100, seconds: float = 60.0) -> None:
        self._burst = burst
        self._seconds = seconds
        self._full_at = 0.0

    def wait(self, now: float) -> float:
        """Seconds until an order is allowed; 0 takes a token."""
        # Never further ahead than an empty bucket: the clock may have been set back.
        full_at = min(max(self._full_at, now), now + self._burst * self._seconds)
        self._full_at = full_at
        wait = full_at + self._seconds - now - self._burst * self._seconds
        if wait > 0:
            return wait
        self._full_at = full_at + self._seconds
        return 0.0


def by_lifetime(issued_at: float, lifetime: tuple[float, float], draw: float) -> float:
    """When to renew a certificate whose directory suggests no time.

    `lifetime` is its validity, from and until. Directories backdate its start, such as by an hour,
    so `issued_at` is the time of its arrival.
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
    """The earliest renewal, however little lifetime is left: otherwise a directory that issues such
    certificates would be asked endlessly."""
    not_before, not_after = lifetime
    return issued_at + min(REST_SECONDS, (not_after - not_before) / 3)


def is_believed(at: float, now: float) -> bool:
    """Whether a stored time is plausible: no wait is as long as `FURTHEST_SECONDS`, so a later time
    comes from a wrong clock."""
    return at <= now + FURTHEST_SECONDS


def ask_again(said_seconds: float) -> float:
    """Seconds until the next renewal query, given the directory's Retry-After."""
    shortest, longest = ASK_SECONDS
    return min(max(said_seconds, shortest), longest)
