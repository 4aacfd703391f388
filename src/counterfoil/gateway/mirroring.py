"""Settings of mirroring: copies of requests for another service."""

import msgspec


class Mirror(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is copied has effects at that service, too: it should have data of its own. Clients
    neither wait for copies nor learn of them."""

    service: str
    percent: float = 100.0
    """Of the requests, drawn one by one."""
    concurrency: int = 64
    """Copies under way at once, beside the service's own `concurrency`; others are dropped."""

    def __post_init__(self) -> None:
        if not 0 <= self.percent <= 100:
            raise ValueError("percent is 0 to 100")
        if not 1 <= self.concurrency <= 10_000:
            raise ValueError("concurrency of a mirror is 1 to 10,000")
