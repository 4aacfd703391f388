"""The gateway's part of `counterfoil.toml`; every setting has a default that is safe to keep."""

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
"""HTTP within a tunnel would get around routes, identity and limits."""

_LOG_LIMIT = 100_000
"""Times that a sliding log may keep for one key, at 8 bytes each: larger limits need no log."""
_SECONDS_LIMIT: Final = 31_536_000


class Limit(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How much each key may ask for: `rate` and `burst`, or `requests` in a window."""

    key: str
    """`tenant`, `address`, `route` (one account for all of a path), `claim:NAME` or `header:NAME`.
    Requests without it share an account."""
    algorithm: Literal["gcra", "sliding_counter", "sliding_log", "fixed_window"] = "gcra"
    """`gcra` takes `rate` and `burst`, the others `requests` and `window_seconds`; what each lets
    pass is in docs/limits.md."""
    rate: float | None = None
    """Requests a second, over a long time."""
    burst: int | None = None
    """Requests at once."""
    requests: int | None = None
    """Requests in a window."""
    window_seconds: float | None = None
    fallback: Literal["local", "refuse"] = "local"
    """While the store that gateways share is away: `local`, each gateway limits alone; `refuse`,
    nothing passes (503). Without `[engines] limits = "redis"` it means nothing."""
    strict: bool = False
    """Ask the store that gateways share about each request before it passes: all of them together
    admit no more than one would, and each request waits for an answer. Means nothing without it."""
    tell: bool = False
    """Say what is left in each answer (RateLimit fields); refusals always say it."""

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
    """How a hook (`@app.hook(NAME)`) is run and asked."""

    processes: int = 2
    deadline_ms: int = 50
    """For its answer, the wait for a free process included."""
    queue: int = 256
    """Requests that may wait for it at once; what comes on top gets no answer."""
    failure: Literal["refuse", "pass"] = "refuse"
    """Without an answer: `refuse`, 503 with Retry-After; `pass`, as if it had nothing to say."""

    def __post_init__(self) -> None:
        if not 1 <= self.processes <= 64 or not 1 <= self.deadline_ms <= 60_000 or self.queue < 1:
            raise ValueError("processes are 1 to 64, deadline_ms 1 to 60,000, queue at least 1")


class Cache(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which answers of a route are kept (RFC 9111), for how long, and who waits for whose."""

    max_object_bytes: int = 1_048_576
    """Larger bodies pass through, and are not kept."""
    default_ttl_seconds: float = 0.0
    """How long an answer is fresh that doesn't say; 0 leaves it to the heuristic."""
    min_ttl_seconds: float = 0.0
    """Answers are fresh for so long even if they say less. `no-store`, `private` and `no-cache`
    hold all the same."""
    heuristic_limit_seconds: float = 3600.0
    """An answer that has a Last-Modified and says nothing else is fresh for a tenth of the time
    since, and for no longer than this; 0 switches it off."""
    stale_while_revalidate_seconds: float = 0.0
    """For so long a stale answer is sent while a new one is fetched, where the answer itself says
    nothing of it (RFC 5861)."""
    stale_if_error_seconds: float = 0.0
    """For so long a stale answer is sent if the service fails, where the answer itself says nothing
    of it (RFC 5861)."""
    collapse_wait_seconds: float = 5.0
    """How long a request waits for another's answer before it asks for itself."""
    cookies: bool = False
    """Keep answers that set cookies, as RFC 9111 would have it: everybody then gets the same."""
    request_directives: bool = True
    """Heed the Cache-Control of requests. Without it no client can reach past the cache."""
    tags_header: str = "surrogate-key"
    """The header in which answers carry the tags that they are purged by, apart by spaces or
    commas. Clients don't get it."""

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
    """Which requests go to which service. The most specific path wins; among routes of one path the
    first that fits."""

    path: str
    """A whole path, or a prefix if it ends in `*`."""
    methods: tuple[str, ...]
    hosts: tuple[str, ...] = ()
    """Names by which clients must ask, without ports; `*.example.com` is every name below it."""
    headers: dict[str, str] = msgspec.field(default_factory=dict[str, str])
    """What headers must say, to the letter."""
    allow: tuple[str, ...] = ()
    """Networks (CIDR) that may ask, all if there are none; others get 403."""
    deny: tuple[str, ...] = ()
    """Networks that may not, though they are allowed."""
    service: str = ""
    """Left out where there is a `split` or a `redirect`."""
    split: Split | None = None
    """Divide the requests between several services, in place of `service`."""
    mirror: Mirror | None = None
    """Send copies of requests to another service, and throw its answers away."""
    identity: bool = True
    limits: tuple[str, ...] = ()
    hooks: tuple[str, ...] = ()
    """Asked in this order, once the identity is known and the limits have let the request pass."""
    request_body_limit: int | None = None
    """In bytes, in place of the gateway's; 0 for no limit."""
    upgrades: tuple[str, ...] = ("websocket",)
    """The protocols that a client's connection may go over to if the instance agrees."""
    early_data: bool = True
    """Let requests of safe methods pass that might be replays: in early data, where the gateway
    takes it, or marked by a proxy before it (`Early-Data`). Without it they wait for the end of the
    handshake, or get 425."""
    early_hints: bool = False
    """Pass on Early Hints (103) of the service, to clients of HTTP/1.1 and HTTP/3. Some old clients
    of HTTP/1.1 take one for the answer."""
    grpc_web: bool = False
    """Make calls of gRPC-Web, by pages, into calls of gRPC; others pass as they are."""
    cache: Cache | None = None
    """Keep answers that may be kept; without this table none are."""
    cors: Cors | None = None
    """Let pages of other origins ask; without this table the service says who may."""
    rewrite: Rewrite | None = None
    request_headers: HeaderEdits | None = None
    """Changed on the way to the service, before what hooks say."""
    response_headers: HeaderEdits | None = None
    """Changed in all answers, those of the cache and the gateway too."""
    redirect: Redirect | None = None
    """Send clients elsewhere, and ask no service."""
    compression: Compression | None = None
    """Compress answers; without this table none are."""

    def __post_init__(self) -> None:
        check_path(self.path)
        if not self.methods:
            raise ValueError(f'route {self.path} lets nothing in: name its methods, as ["POST"]')
        check_methods(self.path, self.methods)
        check_hosts(self.hosts)
        check_headers(self.headers)
        self._check_edge()
        for network in (*self.allow, *self.deny):
            ip_network(network)  # says itself what is wrong
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
        """All that the route leads to, or sends copies to."""
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
    """A certificate with those that vouch for it, and its key: paths of files in PEM."""

    certificate: str
    key: str


class Clients(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How long clients are waited for, and how many may be connected. Settled at the start."""

    head_seconds: float = 10.0
    """For the TLS handshake, for the first request, and for the end of the head of any."""
    idle_seconds: float = 30.0
    """Between requests: a connection ends after once to twice this time."""
    stall_seconds: float = 60.0
    """For a client to take the next part of an answer. Beyond, up to twice this time, it is cut
    off; over HTTP/3 only the stream of that answer."""
    connections: int = 16_384
    """In all; whoever comes beyond is let go at once. 0 for as many as come. Keep it some thousands
    below the limit of open files of the process, since requests to services need them, too."""
    connections_per_address: int = 0
    """From one address (of IPv6: one network of 64 bits); 0 for as many as come, since behind a
    load balancer all clients have one address."""
    congestion: str | None = None
    """The kernel's algorithm for how fast answers are sent over TCP, such as `bbr`, which keeps the
    queues on the way short; without it, the machine's usual one."""

    def __post_init__(self) -> None:
        times = (self.head_seconds, self.idle_seconds, self.stall_seconds)
        if not all(0.01 <= time < 3600 for time in times):
            raise ValueError("clients: each of the times lies between 0.01 s and an hour")
        if self.connections < 0 or self.connections_per_address < 0:
            raise ValueError("clients: connections are numbers, or 0 for as many as come")


class Telemetry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is told of requests, and to whom. Every request that failed (5xx) or was slow is traced,
    and a share of the others; metrics have labels from the configuration alone."""

    otlp_url: str = ""
    """A collector that takes OTLP over HTTP in JSON, such as `http://127.0.0.1:4318`; empty: no
    traces."""
    ca_file: str = ""
    """Authorities (PEM) that vouch for its certificate, in place of those this machine trusts."""
    service_name: str = "counterfoil-gateway"
    sample_ratio: float = 0.01
    """The share of requests that are traced though nothing is wrong with them, 0 to 1."""
    slow_ms: int = 1_000
    """Milliseconds from which on a request is slow."""
    tenants: tuple[str, ...] = ()
    """Tenants with counts of their own in metrics, at most 100; all others are `other`."""

    def __post_init__(self) -> None:
        check_url("otlp_url", self.otlp_url)
        if self.otlp_url.rstrip("/").endswith("/v1/traces"):
            raise ValueError("otlp_url: leave /v1/traces out, which is added")
        if not 0 <= self.sample_ratio <= 1 or self.slow_ms < 1 or len(self.tenants) > 100:
            raise ValueError("sample_ratio is 0 to 1, slow_ms at least 1, tenants at most 100")


class GatewayConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The data plane."""

    listen: str = "127.0.0.1:8443"
    admin: str = "127.0.0.1:8444"
    tls: Literal["development", "off"] = "development"
    certificates: tuple[Certificate, ...] = ()
    """Further certificates, chosen by the name that a client asks for (SNI); for all other names
    there is the one of `tls`. Files are read anew by each reload: renew them in place."""
    acme: Acme | None = None
    """Certificates from an ACME directory, such as Let's Encrypt's, for the hosts that it names."""
    ticket_secret: str | None = None
    """A file of at least 32 random bytes: gateways with the same one resume each other's TLS
    sessions. Keys are made from it and change every 6 hours. Without it each makes its own."""
    http3: bool = False
    """HTTP/3 (QUIC) as well, on the UDP port of the same number: clients learn of it by the Alt-Svc
    header of their answers. Needs TLS, and a firewall that lets UDP through."""
    early_data: bool = False
    """Requests that clients which come back send with their first flight (0-RTT): those of safe
    methods don't wait for the handshake, and what is recorded and sent again is let in by nobody.
    Sessions are then resumed at this gateway alone, each once. Beside `ticket_secret`, by which
    gateways share those of TCP, it is for HTTP/3."""
    clients: Clients = Clients()
    start_wait_seconds: float = 5.0
    """How long a gateway that starts leaves its port alone while the routes' services have no
    instance that it knows of; 0 to take it at once."""
    threads: int = 1
    request_body_limit: int = 1_048_576
    """In bytes; 0 for no limit. Up to 64 KiB of a body are held, so that it can be sent again to
    another instance; a larger one goes on as it comes, and is sent once."""
    trusted_proxies: tuple[str, ...] = ()
    """Networks (CIDR) of one's own proxies: what they say in X-Forwarded-For is believed."""
    trusted_hops: int = 0
    """Or how many proxies every request passes, whatever their addresses."""
    proxy_protocol: bool = False
    """Every connection begins with the header of the PROXY protocol (version 1 or 2), by which one
    of `trusted_proxies` says whose it is; who sends none, or isn't one of them, is let go."""
    cache_bytes: int = 67_108_864
    """What stored answers of all routes with a cache take together, at most; the least used go."""
    identity: Identity | tuple[Identity, ...] | None = None
    """One issuer (`[gateway.identity]`), or several (`[[gateway.identity]]`)."""
    api_keys: dict[str, ApiKey] = msgspec.field(default_factory=dict[str, ApiKey])
    signing_keys: dict[str, SigningKey] = msgspec.field(default_factory=dict[str, SigningKey])
    tiers: tuple[str, ...] = ("gold", "silver", "bronze")
    """The highest first: who keeps being served when there is not enough for all. Who is of
    none of them is of the lowest."""
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
            # In the store that gateways share, a count is under NAME:KEY.
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
            ip_network(network)  # says itself what is wrong
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
