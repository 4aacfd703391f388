"""Settings of splits: canaries and gradual rollouts."""

import re
from typing import Final

import msgspec

from counterfoil.gateway.matching import TOKEN

WEIGHT_LIMIT: Final = 1_000_000
SIDES_LIMIT: Final = 16
"""Each request computes a logarithm for each service."""


class Split(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Services that share the requests of a route. With `by`, each client sticks to one service;
    raising a service's weight moves clients to that service only."""

    weights: dict[str, int]
    """Services and their relative weights; 0: only requests that name it in `header`."""
    by: str | None = None
    """The client's identity for stickiness: `tenant`, `address`, `claim:NAME` or `header:NAME`.
    Without it, or for requests that lack it, each request is assigned at random."""
    header: str | None = None
    """A header by which requests choose their service, for testers; any client may set it. Unknown
    names in it are ignored."""

    def __post_init__(self) -> None:
        if not 2 <= len(self.weights) <= SIDES_LIMIT:
            raise ValueError(
                f"a split is between 2 to {SIDES_LIMIT} services: set `service` for one"
            )
        if not all(0 <= weight <= WEIGHT_LIMIT for weight in self.weights.values()):
            raise ValueError(f"weights are 0 to {WEIGHT_LIMIT:,}")
        if not any(self.weights.values()):
            raise ValueError("a split needs a service with a weight above 0")
        if self.by is not None and not re.fullmatch(
            r"tenant|address|claim:.+|header:[\w!#$%&'*+.^`|~-]+", self.by
        ):
            raise ValueError(f"by {self.by!r}: use tenant, address, claim:NAME or header:NAME")
        if self.header is not None and not TOKEN.fullmatch(self.header):
            raise ValueError(f"{self.header!r} is no name of a header")

    @property
    def needs_identity(self) -> bool:
        """Whether `by` depends on the client's identity."""
        return self.by is not None and self.by.startswith(("tenant", "claim:"))
