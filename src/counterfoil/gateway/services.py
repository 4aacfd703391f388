"""Settings of services: protocol, concurrency, timeouts, retries, breakers."""

import re
from typing import Literal

import msgspec


class HealthCheck(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How each instance is checked beside its answers to requests: by a request of the gateway's
    own, on a connection of its own, without the headers that requests of clients get."""

    path: str = ""
    """What is asked for by GET, and its query if it has one; services of Counterfoil answer
    `/healthz`."""
    grpc: str | None = None
    """Or the service that is asked for by the health protocol of gRPC (`grpc.health.v1.Health`);
    empty: the whole server. It has to answer `SERVING`."""
    interval_seconds: float = 5.0
    """From one probe of an instance to the next, a tenth more or less by chance; longer while a
    probe is under way, since there is one at a time."""
    timeout_seconds: float = 1.0
    """For the whole of a probe, the connection included."""
    failures: int = 3
    """In a row, until an instance gets no requests. The first probe of all decides alone."""
    successes: int = 2
    """In a row, until it gets requests again, at first fewer if `slow_start_seconds` says so."""
    statuses: tuple[int, ...] = ()
    """What a good answer's status is; empty: 200 to 299. Redirects are not followed."""

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
    """TLS 1.3 or 1.2 with the instances of a service; `tls = {}` for what is safe to keep.

    An instance's certificate is always looked at: nothing switches that off. Files are PEM, their
    paths from the configuration's folder; a start and each reload read them."""

    ca_file: str = ""
    """Authorities that vouch for the instances, in place of those this machine trusts. A
    certificate that a service has signed itself is its own authority."""
    server_name: str = ""
    """The name that certificates must be for, that instances are asked for (SNI) and by (`Host`);
    empty: the host of each instance's address."""
    certificate: str = ""
    """What the gateway shows to instances that ask who it is (mutual TLS), with those that vouch
    for it."""
    key: str = ""
    """The certificate's."""

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
"""What a setting may be, if it is set at all."""


class Upstream(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How a service is asked and protected, and from what its clients are shielded."""

    protocol: Literal["http/1.1", "h2c", "h2"] = "http/1.1"
    """What its instances speak. HTTP/2, which gRPC needs, is `h2` over TLS and `h2c`, with prior
    knowledge, without; connections to such a service can't be upgraded."""
    tls: ServiceTls | None = None
    """Speak TLS with its instances; without this table it is not spoken."""
    concurrency: int = 256
    """Requests that the service has at once, over all of its instances."""
    adaptive_concurrency: bool = False
    """Find out how many it can have from how long they take; `concurrency` is the most then."""
    least_concurrency: int = 4
    """The fewest, if it adapts."""
    tenant_concurrency: int = 0
    """Requests that one tenant has at once (429 beyond); 0 for no bound of its own."""
    queue: int = 64
    """Requests that may wait for a place; 0 for none. A higher tier pushes out a lower one."""
    queue_timeout_seconds: float = 0.1
    """How long the highest tier waits; lower ones wait less, the lowest of several not at all."""
    connect_timeout_seconds: float = 0.5
    """For an instance to accept a connection."""
    attempt_timeout_seconds: float = 2.0
    """For an instance to answer: the head, and the whole of an answer up to 256 KiB."""
    idle_timeout_seconds: float | None = None
    """Between two parts of a body that passes through; left out, as for an attempt."""
    connection_idle_seconds: float = 4.0
    """How long a connection to an instance is kept between two requests, sooner if the instance
    says so (`Keep-Alive: timeout=`); 0 to connect for each. Less than the instances themselves
    wait, or a request meets the end of its connection: uvicorn and Node wait 5 seconds."""
    connection_age_seconds: float = 3600.0
    """How long one is used at all, up to a tenth less by chance; what is under way then goes on."""
    request_timeout_seconds: float | None = None
    """For all attempts together; left out, as long as they take."""
    attempts: int = 3
    """How often an instance is asked at most, where repeating is safe."""
    retry_budget: float = 0.2
    """Retries and hedges for each request, beside ten at once and one a second; 0 for none."""
    hedge_after_seconds: float | None = None
    """Ask a second instance if the first has not answered by then, where repeating is safe."""
    balance: Literal["least_requests", "peak_ewma"] = "least_requests"
    """Of two instances drawn, take the one with fewer requests, or the one that will be through
    with them sooner."""
    slow_start_seconds: float = 0.0
    """For so long an instance gets less than its share that is new, or healthy again."""
    panic_share: float = 0.0
    """With fewer than this part of the instances closed and healthy, all are asked whatever their
    breakers and checks say; 0 for never."""
    health: HealthCheck | None = None
    """Check instances; without this table they are known by their answers to requests alone."""
    breaker_failures: int = 5
    """Failures in a row that open an instance's breaker."""
    breaker_ratio: float | None = None
    """The part of requests in the window whose failure opens it as well; left out, none."""
    breaker_window_seconds: float = 10.0
    breaker_minimum: int = 20
    """Requests in the window below which a ratio says nothing."""
    breaker_open_seconds: float = 1.0
    """How long it stays open before it lets probes through."""
    breaker_probes: int = 1
    """Probes that have to succeed, and pass at once."""
    tunnels: int = 1024
    """WebSockets and other upgraded connections at once; they don't count as requests under way."""
    tunnel_idle_seconds: float = 300.0
    """A tunnel ends when for so long there was no byte in either direction."""

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
