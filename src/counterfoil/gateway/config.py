"""The gateway's settings in `counterfoil.toml`; every default is safe."""

import re
from ipaddress import ip_network
from typing import Final, Literal

import msgspec

from counterfoil.gateway.acme.settings import Acme
from counterfoil.gateway.compression import Compression
from counterfoil.gateway.cors import Cors
from counterfoil.gateway.credentials import ApiKey, Identity, SigningKey, check_url
from counterfoil.gateway.matching import (
    TOKEN,
    check_headers,
    check_hosts,
    check_methods,
    check_path,
)
from counterfoil.gateway.mirroring import Mirror
from counterfoil.gateway.rewriting import HeaderEdits, Redirect, Rewrite, begins_all
from counterfoil.gateway.services import Upstream
from counterfoil.gateway.splitting import Split

HIDING_PROTOCOLS: Final = frozenset({"h2c", "h2", "http/1.1", "http/2.0"})
"""Tunneled HTTP would bypass routes, identity and limits."""

_LOG_LIMIT = 100_000
"""Timestamps that a sliding log may keep per key, at 8 bytes each; larger limits need no log."""
_SECONDS_LIMIT: Final = 31_536_000


class Limit(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A limit per key: `rate` and `burst`, or `requests` in a window."""

    key: str
    """`tenant`, `address`, `route` (one count for the whole path), `claim:NAME` or `header:NAME`.
    Requests without it share one count."""
    algorithm: Literal["gcra", "sliding_counter", "sliding_log", "fixed_window"] = "gcra"
    """`gcra` takes `rate` and `burst`, the others `requests` and `window_seconds`; docs/limits.md
    states what each admits."""
    rate: float | None = None
    """Requests per second, in the long run."""
    burst: int | None = None
    """Requests at once."""
    requests: int | None = None
    """Requests per window."""
    window_seconds: float | None = None
    fallback: Literal["local", "refuse"] = "local"
    """While the shared store is unavailable: `local`, each gateway limits by itself; `refuse`, all
    requests get 503. Without `[engines] limits = "redis"` it has no effect."""
    strict: bool = False
    """Ask the shared store before each request: all gateways together admit no more than one would,
    at the cost of a round trip per request. Without a shared store it has no effect."""
    tell: bool = False
    """Send the remaining allowance with each answer (RateLimit fields); refusals always do."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"tenant|address|route|claim:.+|header:[\w!#$%&'*+.^`|~-]+", self.key):
            raise ValueError(
                f"key {self.key!r}: use tenant, address, route, claim:NAME or header:NAME"
            )
        window = (self.requests, self.window_seconds)
        if self.algorithm == "gcra":
            if self.rate is None or self.burst is None or window != (None, None):
                raise ValueError("gcra takes a rate and a burst, and no window: set both")
            if not 0 < self.rate <= 1e9 or not 1 <= self.burst <= 2**32 - 1:
                raise ValueError("rate must be above 0 and burst at least 1")
            return
        rated = (self.rate, self.burst) != (None, None)
        if self.requests is None or self.window_seconds is None or rated:
            raise ValueError(f"{self.algorithm} takes requests and window_seconds, and no rate")
        most = _LOG_LIMIT if self.algorithm == "sliding_log" else 2**32 - 1
        if not 1 <= self.requests <= most or not 0.001 <= self.window_seconds <= 31 * 86_400:
            raise ValueError(f"requests are 1 to {most:,}, window_seconds 0.001 to 31 days")


class HookSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How a hook (`@app.hook(NAME)`) is run and called."""

    processes: int = 2
    deadline_ms: int = 50
    """For its answer, including the wait for a free process."""
    queue: int = 256
    """Requests that may wait for it at once; requests beyond that are treated as unanswered."""
    failure: Literal["refuse", "pass"] = "refuse"
    """If the hook doesn't answer: `refuse`, 503 with Retry-After; `pass`, the request passes."""

    def __post_init__(self) -> None:
        if not 1 <= self.processes <= 64 or not 1 <= self.deadline_ms <= 60_000 or self.queue < 1:
            raise ValueError("processes are 1 to 64, deadline_ms 1 to 60,000, queue at least 1")


class Cache(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which answers of a route are cached (RFC 9111), for how long, and how requests collapse."""

    max_object_bytes: int = 1_048_576
    """Larger bodies pass through uncached."""
    default_ttl_seconds: float = 0.0
    """The freshness of an answer that doesn't state one; 0 leaves it to the heuristic."""
    min_ttl_seconds: float = 0.0
    """The least freshness of an answer, even if it states less. `no-store`, `private` and
    `no-cache` still apply."""
    heuristic_limit_seconds: float = 3600.0
    """An answer that states no freshness but has a Last-Modified is fresh for a tenth of the time
    since then, and at most this long; 0 disables the heuristic."""
    stale_while_revalidate_seconds: float = 0.0
    """How long a stale answer is served while a new one is fetched, unless the answer states it
    (RFC 5861)."""
    stale_if_error_seconds: float = 0.0
    """How long a stale answer is served if the service fails, unless the answer states it
    (RFC 5861)."""
    collapse_wait_seconds: float = 5.0
    """How long a request waits for another request's answer before it fetches its own."""
    cookies: bool = False
    """Cache answers that set cookies, as RFC 9111 allows: all clients then get the same cookies."""
    request_directives: bool = True
    """Honor the Cache-Control of requests. Otherwise clients can't bypass the cache."""
    tags_header: str = "surrogate-key"
    """The response header with an answer's purge tags, separated by spaces or commas. It is not
    sent to clients."""

    def __post_init__(self) -> None:
        seconds = (
            self.default_ttl_seconds,
            self.min_ttl_seconds,
            self.heuristic_limit_seconds,
            self.stale_while_revalidate_seconds,
            self.stale_if_error_seconds,
        )
        if not all(0 <= each <= _SECONDS_LIMIT for each in seconds):
            raise ValueError(f"times of a cache are 0 to {_SECONDS_LIMIT:,} seconds (a year)")
        if not 0 <= self.collapse_wait_seconds <= 60:
            raise ValueError("collapse_wait_seconds is 0 to 60")
        if not 0 < self.max_object_bytes <= 2**30:
            raise ValueError("max_object_bytes is 1 to 1,073,741,824")
        if not TOKEN.fullmatch(self.tags_header):
            raise ValueError("tags_header is the name of a header, such as surrogate-key")


class Route(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which requests go to which service. The most specific path wins; among routes with the same
    path, the first match."""

    path: str
    """A full path, or a prefix if it ends in `*`."""
    methods: tuple[str, ...]
    hosts: tuple[str, ...] = ()
    """Host names to match, without ports; `*.example.com` matches every name below it."""
    headers: dict[str, str] = msgspec.field(default_factory=dict[str, str])
    """Headers that must have exactly these values."""
    allow: tuple[str, ...] = ()
    """Networks (CIDR) whose clients are allowed, all if empty; others get 403."""
    deny: tuple[str, ...] = ()
    """Networks that are refused even if allowed."""
    service: str = ""
    """Omitted with a `split` or a `redirect`."""
    split: Split | None = None
    """Divide the requests among several services, instead of `service`."""
    mirror: Mirror | None = None
    """Send copies of requests to another service, and discard its answers."""
    identity: bool = True
    limits: tuple[str, ...] = ()
    hooks: tuple[str, ...] = ()
    """Called in this order, after identity and limits."""
    request_body_limit: int | None = None
    """In bytes, instead of the gateway's limit; 0 for no limit."""
    upgrades: tuple[str, ...] = ("websocket",)
    """The protocols that a client's connection may be upgraded to if the instance agrees."""
    early_data: bool = True
    """Forward requests of safe methods that may be replays: sent in early data, where the gateway
    accepts it, or marked by a proxy (`Early-Data`). Otherwise they wait for the end of the
    handshake, or get 425."""
    early_hints: bool = False
    """Forward the service's Early Hints (103) to clients of HTTP/1.1 and HTTP/3. Some old HTTP/1.1
    clients mistake them for the final answer."""
    grpc_web: bool = False
    """Translate gRPC-Web calls into gRPC calls; other requests pass unchanged."""
    cache: Cache | None = None
    """Cache answers; without this table nothing is cached."""
    cors: Cors | None = None
    """Allow pages of other origins; without this table CORS is up to the service."""
    rewrite: Rewrite | None = None
    request_headers: HeaderEdits | None = None
    """Edits of requests to the service, made before those of hooks."""
    response_headers: HeaderEdits | None = None
    """Edits of all answers, including those of the cache and of the gateway."""
    redirect: Redirect | None = None
    """Redirect clients; no service is involved."""
    compression: Compression | None = None
    """Compress answers; without this table none are compressed."""

    def __post_init__(self) -> None:
        check_path(self.path)
        if not self.methods:
            raise ValueError(f'route {self.path} lets nothing in: name its methods, as ["POST"]')
        check_methods(self.path, self.methods)
        check_hosts(self.hosts)
        check_headers(self.headers)
        self._check_edge()
        for network in (*self.allow, *self.deny):
            ip_network(network)  # raises if it is invalid
        if self.request_body_limit is not None and self.request_body_limit < 0:
            raise ValueError("request_body_limit is a number of bytes, or 0 for no limit")
        for protocol in self.upgrades:
            if not TOKEN.fullmatch(protocol):
                raise ValueError(f'upgrades: {protocol!r} is no protocol such as "websocket"')
        if hidden := {each.lower() for each in self.upgrades} & HIDING_PROTOCOLS:
            raise ValueError(
                f"{', '.join(sorted(hidden))} in upgrades would hide requests: leave it out"
            )

    @property
    def services(self) -> tuple[str, ...]:
        """All services that the route sends requests or copies to."""
        weighed = tuple(self.split.weights) if self.split is not None else ()
        named = (self.service, self.mirror.service if self.mirror else "")
        return tuple(dict.fromkeys(name for name in (*named, *weighed) if name))

    def _check_edge(self) -> None:
        if self.redirect is None and self.split is None and not self.service:
            raise ValueError(
                f"route {self.path} leads nowhere: set its service, a split, or a redirect"
            )
        if self.split is not None and self.service:
            raise ValueError(f"route {self.path} has a split: name its service among the weights")
        if self.split is not None and self.split.needs_identity and not self.identity:
            raise ValueError(
                f"route {self.path} is split by {self.split.by}, which nobody proves there: set "
                "identity = true, or split by address or header:NAME"
            )
        if self.mirror is not None and self.mirror.service == self.service:
            raise ValueError(f"route {self.path} would do everything twice: mirror another service")
        if self.redirect is not None:
            unused = (
                "service",
                "split",
                "mirror",
                "limits",
                "hooks",
                "cache",
                "rewrite",
                "request_headers",
                "grpc_web",
            )
            if names := [name for name in unused if getattr(self, name)]:
                raise ValueError(f"a redirect asks no service: leave {', '.join(names)} out")
            if self.redirect.scheme and not (self.redirect.host or self.hosts):
                raise ValueError(
                    "a redirect to the host that was asked for needs the route's hosts, or any "
                    "name could be asked for: set them, or the redirect's host"
                )
        for each in (self.rewrite, self.redirect):
            if each and each.prefix and not begins_all(each.prefix, self.path):
                raise ValueError(
                    f"not all paths of {self.path} begin with {each.prefix} up to a slash: "
                    "make the prefix shorter, or the route's path longer"
                )
        if self.cors and (others := set(self.cors.methods) - set(self.methods)):
            raise ValueError(f"cors: the route has no {', '.join(sorted(others))}: leave it out")
        if self.request_headers:
            self.request_headers.check_request()
        if self.response_headers:
            self.response_headers.check_answer()


class Certificate(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A certificate chain and its key: paths of PEM files."""

    certificate: str
    key: str


class Clients(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Timeouts and limits of client connections. Fixed at start."""

    head_seconds: float = 10.0
    """For the TLS handshake, for the first request, and for the rest of any request's head."""
    idle_seconds: float = 30.0
    """Between requests: an idle connection is closed after once to twice this time."""
    stall_seconds: float = 60.0
    """For a client to read the next part of an answer. After once to twice this time the connection
    is closed; with HTTP/3 only the answer's stream is reset."""
    connections: int = 16_384
    """In all; further connections are closed at once. 0 for no limit. Keep it some thousands below
    the process's limit of open files, since connections to services need some, too."""
    connections_per_address: int = 0
    """Per address (IPv6: per /64 network); 0 for no limit, the default, since behind a load
    balancer all clients have the same address."""
    congestion: str | None = None
    """The kernel's congestion control for TCP connections to clients, such as `bbr`, which keeps
    queues on the path short; by default the system's."""

    def __post_init__(self) -> None:
        times = (self.head_seconds, self.idle_seconds, self.stall_seconds)
        if not all(0.01 <= time < 3600 for time in times):
            raise ValueError("clients: each of the times lies between 0.01 s and an hour")
        if self.connections < 0 or self.connections_per_address < 0:
            raise ValueError("clients: connections are numbers, or 0 for as many as come")


class Telemetry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Traces and metrics. Every request that failed (5xx) or was slow is traced, and a share of the
    others; metric labels come from the configuration alone."""

    otlp_url: str = ""
    """An OTLP collector (HTTP, JSON), such as `http://127.0.0.1:4318`; empty disables traces."""
    ca_file: str = ""
    """CAs (PEM) for its certificate, instead of the system's."""
    service_name: str = "counterfoil-gateway"
    sample_ratio: float = 0.01
    """The share of the other requests to trace, 0 to 1."""
    slow_ms: int = 1_000
    """From how many milliseconds on a request is slow."""
    tenants: tuple[str, ...] = ()
    """Tenants with their own label value in metrics, at most 100; all others are `other`."""

    def __post_init__(self) -> None:
        check_url("otlp_url", self.otlp_url)
        if self.otlp_url.rstrip("/").endswith("/v1/traces"):
            raise ValueError("otlp_url: leave /v1/traces out, which is added")
        if not 0 <= self.sample_ratio <= 1 or self.slow_ms < 1 or len(self.tenants) > 100:
            raise ValueError("sample_ratio is 0 to 1, slow_ms at least 1, tenants at most 100")


class GatewayConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The settings of the data plane (`[gateway]`)."""

    listen: str = "127.0.0.1:8443"
    admin: str = "127.0.0.1:8444"
    tls: Literal["development", "off"] = "development"
    certificates: tuple[Certificate, ...] = ()
    """Further certificates, chosen by SNI; all other names get the one of `tls`. Each reload reads
    the files again: renew them in place."""
    acme: Acme | None = None
    """Certificates for its `hosts` from an ACME directory, such as Let's Encrypt's."""
    ticket_secret: str | None = None
    """A file of at least 32 random bytes: gateways that share it resume each other's TLS sessions.
    Ticket keys are derived from it and change every 6 hours. Without it, each has its own keys."""
    http3: bool = False
    """Serve HTTP/3 (QUIC) as well, on the UDP port of the same number, advertised by Alt-Svc. Needs
    TLS, and a firewall that lets UDP through."""
    early_data: bool = False
    """Accept 0-RTT requests of returning clients: those of safe methods don't wait for the
    handshake, and replays are rejected. Each session is then resumed once, and only at this
    gateway. With `ticket_secret`, by which gateways share TCP sessions, it applies to HTTP/3
    only."""
    clients: Clients = Clients()
    start_wait_seconds: float = 5.0
    """How long a starting gateway waits before it listens while a routed service has no known
    instance; 0 to listen at once."""
    threads: int = 1
    request_body_limit: int = 1_048_576
    """In bytes; 0 for no limit. Bodies up to 64 KiB are buffered, so that they can be sent again to
    another instance; larger ones are streamed, and sent once."""
    trusted_proxies: tuple[str, ...] = ()
    """Networks (CIDR) of your own proxies: their X-Forwarded-For is trusted."""
    trusted_hops: int = 0
    """Or the number of proxies that every request passes, whatever their addresses."""
    proxy_protocol: bool = False
    """Every connection begins with a PROXY protocol header (version 1 or 2) from one of
    `trusted_proxies`, which gives the client's address; other connections are closed."""
    cache_bytes: int = 67_108_864
    """The memory limit of all routes' caches together; the least used answers are evicted."""
    identity: Identity | tuple[Identity, ...] | None = None
    """One issuer (`[gateway.identity]`), or several (`[[gateway.identity]]`)."""
    api_keys: dict[str, ApiKey] = msgspec.field(default_factory=dict[str, ApiKey])
    signing_keys: dict[str, SigningKey] = msgspec.field(default_factory=dict[str, SigningKey])
    tiers: tuple[str, ...] = ("gold", "silver", "bronze")
    """From the highest to the lowest: under overload, higher tiers are served first. An unknown
    tier counts as the lowest."""
    telemetry: Telemetry = Telemetry()
    limits: dict[str, Limit] = msgspec.field(default_factory=dict[str, Limit])
    hooks: dict[str, HookSettings] = msgspec.field(default_factory=dict[str, HookSettings])
    routes: tuple[Route, ...] = ()
    services: dict[str, Upstream] = msgspec.field(default_factory=dict[str, Upstream])

    def __post_init__(self) -> None:
        if not 1 <= self.threads <= 64:
            raise ValueError("threads are 1 to 64")
        if not 0 <= self.start_wait_seconds <= 30:
            raise ValueError("start_wait_seconds is 0 to 30")
        largest = max(
            (route.cache.max_object_bytes for route in self.routes if route.cache), default=1
        )
        if self.cache_bytes < largest:
            raise ValueError(
                f"cache_bytes holds at least one answer of max_object_bytes ({largest:,})"
            )
        if self.request_body_limit < 0:
            raise ValueError("request_body_limit is a number of bytes, or 0 for no limit")
        if not 1 <= len(set(self.tiers)) == len(self.tiers) <= 8:
            raise ValueError("tiers are 1 to 8 different names, the highest first")
        for tier in self.tiers:
            if not re.fullmatch(r"[!-~]{1,64}", tier):
                raise ValueError(f"tiers: {tier!r} is no name: use 1 to 64 visible ASCII letters")
        if found := next((name for name in self.limits if ":" in name), None):
            # The shared store keeps counts under NAME:KEY.
            raise ValueError(f"the name of a limit holds no colon: {found!r}")
        self._check_proxies()
        if self.http3 and self.tls == "off":
            raise ValueError('http3 needs TLS: set tls = "development", or leave http3 out')
        if self.early_data and self.tls == "off":
            raise ValueError('early_data needs TLS: set tls = "development", or leave it out')
        if self.early_data and self.ticket_secret and not self.http3:
            raise ValueError(
                "early_data needs sessions that this gateway alone resumes, and ticket_secret "
                "shares those of TCP: leave one of them out, or set http3 = true to have it there"
            )
        if self.tls == "off" and (self.certificates or self.ticket_secret or self.acme):
            raise ValueError(
                'certificates, acme and ticket_secret need TLS: set tls = "development"'
            )

    def _check_proxies(self) -> None:
        if self.trusted_proxies and self.trusted_hops:
            raise ValueError("set trusted_proxies or trusted_hops, not both")
        if not 0 <= self.trusted_hops <= 16:
            raise ValueError("trusted_hops are 0 to 16")
        for network in self.trusted_proxies:
            ip_network(network)  # raises if it is invalid
        if self.proxy_protocol and not self.trusted_proxies:
            raise ValueError("proxy_protocol: say in trusted_proxies who may send it")
        if self.proxy_protocol and self.http3:
            raise ValueError("proxy_protocol is not for HTTP/3: leave http3 out")

    @property
    def issuers(self) -> tuple[Identity, ...]:
        """All issuers of tokens."""
        if self.identity is None:
            return ()
        return self.identity if isinstance(self.identity, tuple) else (self.identity,)
