"""The gateway's part of `counterfoil.toml`; every setting has a default that is safe to keep."""

from typing import Literal

import msgspec


class Identity(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Who vouches for clients (OpenID Connect), and which claims matter."""

    issuer: str
    audience: str
    jwks_url: str = ""
    tenant_claim: str = "tenant"
    tier_claim: str = "tier"


class Limit(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A rate for each tenant or client address: `rate` per second, `burst` at once (GCRA)."""

    key: Literal["tenant", "address"]
    rate: float
    burst: int
    fallback: Literal["local", "refuse"] = "local"
    """While the store that gateways share is away: `local`, each gateway limits alone; `refuse`,
    nothing passes (503). Without `[engines] limits = "redis"` it means nothing."""

    def __post_init__(self) -> None:
        if self.rate <= 0 or not 1 <= self.burst <= 2**32 - 1:
            raise ValueError("rate must be above 0 and burst at least 1")


class Route(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which requests go to which service; a path that ends in `*` is a prefix."""

    path: str
    methods: tuple[str, ...]
    service: str
    identity: bool = True
    limits: tuple[str, ...] = ()
    request_body_limit: int | None = None
    """In bytes, in place of the gateway's; 0 for no limit."""

    def __post_init__(self) -> None:
        if self.request_body_limit is not None and self.request_body_limit < 0:
            raise ValueError("request_body_limit is a number of bytes, or 0 for no limit")


class Upstream(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How a service is protected, and from what its clients are shielded."""

    concurrency: int = 256
    attempt_timeout_seconds: float = 2.0
    attempts: int = 3
    breaker_failures: int = 5
    breaker_open_seconds: float = 1.0

    def __post_init__(self) -> None:
        if self.concurrency < 1 or self.attempts < 1 or not 0 < self.attempt_timeout_seconds < 3600:
            raise ValueError("concurrency and attempts start at 1, a timeout lies within an hour")
        if self.breaker_failures < 1 or not 0 <= self.breaker_open_seconds < 3600:
            raise ValueError("breaker_failures starts at 1, an open breaker lasts within an hour")


class GatewayConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The data plane."""

    listen: str = "127.0.0.1:8443"
    admin: str = "127.0.0.1:8444"
    tls: Literal["development", "off"] = "development"
    threads: int = 1
    request_body_limit: int = 1_048_576
    """In bytes; 0 for no limit. Up to 64 KiB of a body are held, so that it can be sent again to
    another instance; a larger one goes on as it comes, and is sent once."""
    identity: Identity | None = None
    limits: dict[str, Limit] = msgspec.field(default_factory=dict[str, Limit])
    routes: tuple[Route, ...] = ()
    services: dict[str, Upstream] = msgspec.field(default_factory=dict[str, Upstream])

    def __post_init__(self) -> None:
        if not 1 <= self.threads <= 64:
            raise ValueError("threads are 1 to 64")
        if self.request_body_limit < 0:
            raise ValueError("request_body_limit is a number of bytes, or 0 for no limit")
