"""Settings of services: protocol, concurrency, timeouts, retries, breakers."""

import re
from typing import Literal

import msgspec


class HealthCheck(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Active health checks of a service's instances: each probe has its own connection, and none of
    the headers added to clients' requests."""

    path: str = ""
    """The path, with a query if needed, of a GET probe; services of Counterfoil answer
    `/healthz`."""
    grpc: str | None = None
    """Or the service named in a gRPC health check (`grpc.health.v1.Health`); empty: the whole
    server. It must answer `SERVING`."""
    interval_seconds: float = 5.0
    """Between two probes of an instance, with a jitter of a tenth; probes of an instance never
    overlap."""
    timeout_seconds: float = 1.0
    """For a whole probe, including its connection."""
    failures: int = 3
    """In a row, before an instance gets no more requests. The very first probe decides alone."""
    successes: int = 2
    """In a row, before it gets requests again, fewer at first with `slow_start_seconds`."""
    statuses: tuple[int, ...] = ()
    """Statuses that count as success; empty: 200 to 299. Redirects are not followed."""

    def __post_init__(self) -> None:
        if self.grpc is not None and (self.path or self.statuses):
            raise ValueError("health: path and statuses mean nothing to grpc: set one or the other")
        if self.grpc is not None and not re.fullmatch(r"[\w.]{0,127}", self.grpc, re.ASCII):
            raise ValueError(
                f"grpc {self.grpc!r} is no name of a service such as shop.Ledger, or empty for all"
            )
        if self.grpc is None and not re.fullmatch(r"/[!-\"$-;=?-~]*", self.path):
            raise ValueError(
                f"path {self.path!r}: write what stands in a request, such as /healthz, without #"
            )
        if not 0.1 <= self.interval_seconds <= 3600:
            raise ValueError("interval_seconds is 0.1 to 3600")
        if not 0.01 <= self.timeout_seconds <= 60:
            raise ValueError("timeout_seconds is 0.01 to 60")
        if not 1 <= self.failures <= 100 or not 1 <= self.successes <= 100:
            raise ValueError("failures and successes are 1 to 100")
        if not all(200 <= status <= 599 for status in self.statuses):
            raise ValueError("statuses are 200 to 599: leave them out for any success")


class ServiceTls(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """TLS 1.3 or 1.2 to the instances of a service; `tls = {}` uses the defaults.

    Instances' certificates are always verified. Files are PEM, with paths relative to the
    configuration's folder; they are read at start and at each reload."""

    ca_file: str = ""
    """CAs for the instances' certificates, instead of the system's. A self-signed certificate is
    its own CA."""
    server_name: str = ""
    """The name to verify in certificates, and to send as SNI and `Host`; empty: the host of each
    instance's address."""
    certificate: str = ""
    """The gateway's own certificate chain, for instances that ask for one (mutual TLS)."""
    key: str = ""
    """The certificate's private key."""

    def __post_init__(self) -> None:
        if bool(self.certificate) != bool(self.key):
            given, missing = ("certificate", "key") if self.certificate else ("key", "certificate")
            raise ValueError(f"a {given} without its {missing}: set {missing}")


_UPSTREAM_BOUNDS: dict[str, tuple[float, float]] = {
    "concurrency": (1, 1_000_000),
    "least_concurrency": (1, 1_000_000),
    "tenant_concurrency": (0, 1_000_000),
    "queue": (0, 100_000),
    "queue_timeout_seconds": (0, 60),
    "connect_timeout_seconds": (0.001, 3600),
    "attempt_timeout_seconds": (0.001, 3600),
    "idle_timeout_seconds": (0.001, 3600),
    "connection_idle_seconds": (0, 3600),
    "connection_age_seconds": (0.001, 86_400),
    "request_timeout_seconds": (0.001, 3600),
    "attempts": (1, 100),
    "retry_budget": (0, 10),
    "hedge_after_seconds": (0.001, 3600),
    "slow_start_seconds": (0, 3600),
    "panic_share": (0, 1),
    "breaker_failures": (1, 2**32 - 1),
    "breaker_ratio": (0.001, 1),
    "breaker_window_seconds": (0.1, 3600),
    "breaker_minimum": (1, 1_000_000),
    "breaker_open_seconds": (0, 3600),
    "breaker_probes": (1, 1_000),
    "tunnels": (0, 1_000_000),
    "tunnel_idle_seconds": (0.001, 86_400),
}
"""The allowed ranges of settings."""


class Upstream(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How a service is called and protected, and how failures are kept from clients."""

    protocol: Literal["http/1.1", "h2c", "h2"] = "http/1.1"
    """What its instances speak. HTTP/2, which gRPC needs, is `h2` over TLS, or `h2c` (prior
    knowledge) without; connections to such a service can't be upgraded."""
    tls: ServiceTls | None = None
    """Use TLS to its instances; without this table TLS is not used."""
    concurrency: int = 256
    """Concurrent requests to the service, over all of its instances."""
    adaptive_concurrency: bool = False
    """Adapt the limit to measured latencies; `concurrency` is then the maximum."""
    least_concurrency: int = 4
    """The minimum of an adaptive limit."""
    tenant_concurrency: int = 0
    """Concurrent requests of one tenant (429 beyond); 0 for no limit per tenant."""
    queue: int = 64
    """Requests that may wait for a slot; 0 for none. A higher tier displaces a lower one."""
    queue_timeout_seconds: float = 0.1
    """For the highest tier; lower ones wait less, the lowest of several not at all."""
    connect_timeout_seconds: float = 0.5
    """For an instance to accept a connection."""
    attempt_timeout_seconds: float = 2.0
    """For an instance to answer: the head, and the complete body if it is up to 256 KiB."""
    idle_timeout_seconds: float | None = None
    """Between two parts of a streamed body; by default `attempt_timeout_seconds`."""
    connection_idle_seconds: float = 4.0
    """How long an idle connection to an instance is kept, less if the instance says so
    (`Keep-Alive: timeout=`); 0 for a connection per request. It must be less than the instances'
    own timeout, or a request may meet a closed connection: uvicorn and Node wait 5 seconds."""
    connection_age_seconds: float = 3600.0
    """The age limit of a connection, minus up to a tenth at random; requests under way finish."""
    request_timeout_seconds: float | None = None
    """For all attempts together; by default unlimited."""
    attempts: int = 3
    """At most, for requests that are safe to repeat."""
    retry_budget: float = 0.2
    """Retries and hedges per request, on top of a burst of ten and one a second; 0 for none."""
    hedge_after_seconds: float | None = None
    """Ask a second instance if the first hasn't answered by then and repeating is safe."""
    balance: Literal["least_requests", "peak_ewma"] = "least_requests"
    """Of two instances chosen at random, use the one with fewer requests, or the one with the lower
    expected completion time."""
    slow_start_seconds: float = 0.0
    """How long an instance that is new or healthy again gets less than its full share."""
    panic_share: float = 0.0
    """If fewer than this share of the instances are healthy with a closed breaker, all are used
    regardless; 0 for never."""
    health: HealthCheck | None = None
    """Active checks; without this table instances are judged by their answers to requests."""
    breaker_failures: int = 5
    """Consecutive failures that open an instance's breaker."""
    breaker_ratio: float | None = None
    """The share of failures in the window that also opens it; by default none does."""
    breaker_window_seconds: float = 10.0
    breaker_minimum: int = 20
    """The least number of requests in the window for the ratio to apply."""
    breaker_open_seconds: float = 1.0
    """How long it stays open before it lets probes through."""
    breaker_probes: int = 1
    """Probes that may be under way at once, and that must succeed to close it."""
    tunnels: int = 1024
    """Concurrent WebSockets and other upgraded connections; not counted in `concurrency`."""
    tunnel_idle_seconds: float = 300.0
    """A tunnel without a byte in either direction for this long is closed."""

    def __post_init__(self) -> None:
        for name, (least, most) in _UPSTREAM_BOUNDS.items():
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                raise ValueError(f"{name} is {least:g} to {most:g}")
        hedge = self.hedge_after_seconds
        if hedge is not None and hedge >= self.attempt_timeout_seconds:
            raise ValueError(
                "hedge_after_seconds is less than attempt_timeout_seconds, or too late"
            )
        if self.health and self.health.grpc is not None and self.protocol == "http/1.1":
            raise ValueError('health by grpc needs HTTP/2: set protocol = "h2c" or "h2", or a path')
        if self.least_concurrency > max(self.concurrency, 4):
            raise ValueError("least_concurrency is at most concurrency")
        if self.protocol == "h2" and self.tls is None:
            raise ValueError('protocol h2 is spoken over TLS: add tls = {}, or set "h2c"')
        if self.protocol == "h2c" and self.tls is not None:
            raise ValueError('protocol h2c is spoken without TLS: set "h2", or take tls out')
