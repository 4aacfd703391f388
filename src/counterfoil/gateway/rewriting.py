"""Settings of rewrites and redirects."""

import re
from typing import Final, Literal

import msgspec

from counterfoil.gateway.matching import TOKEN, has_port

_PATH: Final = re.compile(r"/(?!/)[\w!$&'()*+,./:;=@~\[\]-]*", re.ASCII)
"""Without what is encoded, and what ends a path."""
_CLIMBS: Final = re.compile(r"/\.{1,2}(?:[;/]|$)")
_HOST: Final = re.compile(
    r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*)(?::\d{1,5})?"
)
_VALUE: Final = re.compile(r"[!-~](?:[ -~]*[!-~])?")

_OF_THE_MESSAGE: Final = frozenset(
    {
        *("connection", "keep-alive", "proxy-authenticate", "proxy-authorization"),
        *("proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"),
        *("content-length", "content-encoding", "content-range", "expect"),
    }
)
"""They belong to a connection, or say where a message ends and how its body is to be read."""
_VOUCHED_FOR: Final = frozenset(
    {"host", "x-forwarded-for", "x-request-id", "traceparent", "authorization", "x-api-key"}
    | {"idempotency-key", "early-data"}
)
"""What the gateway itself says to services, takes from clients, or repeats requests by."""
_OF_THE_GATEWAY: Final = frozenset(
    {"x-request-id", "counterfoil-effect", "content-type", "alt-svc"}
)
"""What the gateway itself says to clients, and what a service says of its body."""


def _check_path(name: str, path: str) -> None:
    if not _PATH.fullmatch(path) or _CLIMBS.search(path):
        raise ValueError(
            f"{name} {path!r} is no plain path: begin it with one slash, with nothing encoded, "
            "no query, and no . or .. in it"
        )


def begins_all(prefix: str, path: str) -> bool:
    """Whether all paths of a route begin with `prefix`, and end it where a segment ends."""
    beginning = prefix.removesuffix("/")
    return path == beginning or path.startswith(f"{beginning}/")


class Rewrite(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A beginning of the path that the service doesn't get. Everything but the service goes by the
    path that the client asked for: identity, signatures, limits, hooks, the cache and logs."""

    prefix: str
    """With which all paths of the route begin, up to a slash."""
    to: str = "/"
    """What takes its place; left out, it is taken away."""

    def __post_init__(self) -> None:
        _check_path("prefix", self.prefix)
        _check_path("to", self.to)


class HeaderEdits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Headers that are taken away, then set in place of what was there, then added beside it."""

    remove: tuple[str, ...] = ()
    set: dict[str, str] = msgspec.field(default_factory=dict[str, str])
    add: dict[str, str] = msgspec.field(default_factory=dict[str, str])

    def __post_init__(self) -> None:
        for name in self.names():
            if not TOKEN.fullmatch(name):
                raise ValueError(f"{name!r} is no name of a header")
            if name in _OF_THE_MESSAGE or name.startswith("sec-websocket-"):
                raise ValueError(
                    f"{name} says how the message is sent, which is settled here: leave it out"
                )
        for value in (*self.set.values(), *self.add.values()):
            if not _VALUE.fullmatch(value):
                raise ValueError(f"{value!r} can't be in a header: use visible ASCII and spaces")

    def names(self) -> list[str]:
        """All that are touched, in lower case."""
        return [name.lower() for name in (*self.remove, *self.set, *self.add)]

    def check_request(self) -> None:
        """Raises:
        ValueError: one of the headers is not to be changed in requests.
        """
        for name in self.names():
            if name in _VOUCHED_FOR or name.startswith("x-counterfoil-"):
                raise ValueError(
                    f"request_headers: {name} is the gateway's to say to services: leave it out"
                )

    def check_answer(self) -> None:
        """Raises:
        ValueError: one of the headers is not to be changed in answers.
        """
        for name in self.names():
            if name.startswith("access-control-"):
                raise ValueError(f"response_headers: {name} is a matter of the route's cors")
            if name in _OF_THE_GATEWAY or name.startswith("x-counterfoil-"):
                raise ValueError(
                    f"response_headers: {name} is what the gateway says to clients, or what the "
                    "service says of its body: leave it out"
                )


class Redirect(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where clients are sent: what isn't set stays as they asked for it. Nobody is asked for an
    identity, and the route's addresses alone are looked at before."""

    status: Literal[301, 302, 307, 308] = 308
    """308 and 301 for good, 307 and 302 for now. After 301 and 302 a POST may become a GET."""
    scheme: Literal["", "http", "https"] = ""
    """Without a host the route's `hosts` must say which are ours; with one, `https` if left out."""
    host: str = ""
    """A name or an address, with a port or without."""
    path: str = ""
    """The whole path."""
    prefix: str = ""
    """Or a beginning of it that is replaced, with which all paths of the route begin."""
    to: str = "/"
    """What takes the prefix's place; left out, it is taken away."""
    query: bool = True
    """Whether the query stays."""

    def __post_init__(self) -> None:
        if not (self.scheme or self.host or self.path or self.prefix):
            raise ValueError("a redirect leads elsewhere: set scheme, host, path or prefix")
        if self.host and not (_HOST.fullmatch(self.host) and has_port(self.host)):
            raise ValueError(f"host {self.host!r} is no name or address, with a port or without")
        if self.path and self.prefix:
            raise ValueError("a redirect has a path or a prefix, not both")
        if not self.prefix and self.to != "/":
            raise ValueError("to takes the place of a prefix: set one, or set path")
        for name, path in (("path", self.path), ("prefix", self.prefix), ("to", self.to)):
            if path:
                _check_path(name, path)
