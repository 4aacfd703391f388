"""Settings of CORS (`[gateway.routes.cors]`)."""

import re
from typing import Final

import msgspec

from counterfoil.gateway.matching import TOKEN, has_port

_ORIGIN: Final = re.compile(
    r"\*|[a-z][a-z0-9+.-]*://(?:\[[0-9a-f:.]+\]|(?:\*\.)?[a-z0-9_-]+(?:\.[a-z0-9_-]+)*)(?::\d{1,5})?"
)
_OWN_PORT: Final = re.compile(r"http://.*:80|https://.*:443")
_EVERYBODY_BELOW: Final = re.compile(
    r"[^/]*//\*\.(?!localhost\b)[^.]*|[^/]*//\*\.[^:]*\.\d+(?::\d+)?"
)
"""Wildcards directly below a top-level domain, or below an IP address."""
_DAY_SECONDS: Final = 86_400
"""No browser caches a preflight for longer."""


class Cors(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The gateway answers preflights, before the route's identity check, and replaces the service's
    own CORS headers (Access-Control-...)."""

    origins: tuple[str, ...]
    """`https://shop.example`, `https://*.shop.example` for every name below it, or `*` for all."""
    methods: tuple[str, ...] = ()
    """Some of the route's; left out, all of them."""
    headers: tuple[str, ...] = ()
    """Request headers to allow beyond those always allowed. JSON needs `content-type`; `*` is every
    header but `authorization`, which must be named."""
    exposed_headers: tuple[str, ...] = ()
    """Response headers that pages may read beyond those always readable."""
    credentials: bool = False
    """Whether requests may carry credentials such as cookies."""
    max_age_seconds: int = 600
    """How long a browser may cache a preflight, 0 to a day."""

    def __post_init__(self) -> None:
        if not self.origins:
            raise ValueError("cors without origins lets nobody ask: name some, or leave it out")
        for origin in self.origins:
            is_one = _ORIGIN.fullmatch(origin) and has_port(origin)
            if not is_one or _EVERYBODY_BELOW.fullmatch(origin):
                raise ValueError(
                    f"{origin!r} is no origin: use https://shop.example, https://*.shop.example "
                    "or *, in lower case and without a path"
                )
            if _OWN_PORT.fullmatch(origin):
                raise ValueError(f"leave the port out of {origin!r}: browsers do")
        if self.credentials and "*" in (*self.origins, *self.exposed_headers):
            raise ValueError(
                "credentials can't go with *, or any page could act for its visitors: name the "
                "origins and the exposed headers"
            )
        for name in (*self.methods, *self.headers, *self.exposed_headers):
            if not TOKEN.fullmatch(name):
                raise ValueError(f"{name!r} is no name of a method or a header")
        if not 0 <= self.max_age_seconds <= _DAY_SECONDS:
            raise ValueError(f"max_age_seconds is 0 to {_DAY_SECONDS:,}")
