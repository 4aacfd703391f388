"""Settings of mirroring: copies of requests for another service."""

import msgspec


class Mirror(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Copied requests have effects at the other service, so it should have its own data. Clients
    don't wait for copies, and get none of their answers."""

    service: str
    percent: float = 100.0
    """The share of requests copied, chosen at random."""
    concurrency: int = 64
    """Copies under way at once, in addition to the service's own `concurrency`; further ones are
    dropped."""

    def __post_init__(self) -> None:
        if not 0 <= self.percent <= 100:
            raise ValueError("percent is 0 to 100")
        if not 1 <= self.concurrency <= 10_000:
            raise ValueError("concurrency of a mirror is 1 to 10,000")
