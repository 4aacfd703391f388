"""Settings of rewrites and redirects."""

import re
from typing import Final, Literal

import msgspec

from counterfoil.gateway.matching import TOKEN, has_port

_PATH: Final = re.compile(r"/(?!/)[\w!$&'()*+,./:;=@~\[\]-]*", re.ASCII)
"""A path without percent-encoding, query and fragment."""
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
"""Hop-by-hop headers, and those that frame the message or describe its body's encoding."""
_VOUCHED_FOR: Final = frozenset(
    {"host", "x-forwarded-for", "x-request-id", "traceparent", "authorization", "x-api-key"}
    | {"idempotency-key", "early-data"}
)
"""Request headers that the gateway sets or evaluates itself."""
_OF_THE_GATEWAY: Final = frozenset(
    {"x-request-id", "counterfoil-effect", "content-type", "alt-svc"}
)
"""Response headers that the gateway sets, and the content type, which is the service's."""


def _check_path(name: str, path: str) -> None:
    if not _PATH.fullmatch(path) or _CLIMBS.search(path):
        raise ValueError(
            f"{name} {path!r} is no plain path: begin it with one slash, with nothing encoded, "
            "no query, and no . or .. in it"
        )


def begins_all(prefix: str, path: str) -> bool:
    """Whether all paths of a route begin with `prefix`, up to the end of a segment."""
    beginning = prefix.removesuffix("/")
    return path == beginning or path.startswith(f"{beginning}/")


class Rewrite(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Replaces a prefix of the path for the service only. Identity, signatures, limits, hooks, the
    cache and logs use the path of the client's request."""

    prefix: str
    """All paths of the route must begin with it, up to a slash."""
    to: str = "/"
    """What replaces the prefix; by default it is removed."""

    def __post_init__(self) -> None:
        _check_path("prefix", self.prefix)
        _check_path("to", self.to)


class HeaderEdits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Edits of headers: first `remove`, then `set` replaces values, then `add` adds values."""

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
        """The names of all edited headers, in lower case."""
        return [name.lower() for name in (*self.remove, *self.set, *self.add)]

    def check_request(self) -> None:
        """Raises:
        ValueError: one of the headers must not be changed in requests.
        """
        for name in self.names():
            if name in _VOUCHED_FOR or name.startswith("x-counterfoil-"):
                raise ValueError(
                    f"request_headers: {name} is the gateway's to say to services: leave it out"
                )

    def check_answer(self) -> None:
        """Raises:
        ValueError: one of the headers must not be changed in answers.
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
    """Where clients are redirected; unset parts stay as in the request. No identity is required:
    only the route's `allow` and `deny` are checked first."""

    status: Literal[301, 302, 307, 308] = 308
    """308 and 301 are permanent, 307 and 302 temporary. 301 and 302 may turn a POST into a GET."""
    scheme: Literal["", "http", "https"] = ""
    """Without `host`, it needs the route's `hosts`. With `host`, the default is `https`."""
    host: str = ""
    """A name or an address, with an optional port."""
    path: str = ""
    """The whole path."""
    prefix: str = ""
    """Or a prefix to replace; all paths of the route must begin with it."""
    to: str = "/"
    """What replaces the prefix; by default it is removed."""
    query: bool = True
    """Whether to keep the query."""

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
