"""Settings of clients' credentials: token issuers, API keys, signing keys."""

import re
from typing import Final
from urllib.parse import urlsplit

import msgspec

DEFAULT_TIER: Final = "bronze"
"""For keys without a tier. Like any tier that isn't in `tiers`, it then counts as the lowest."""


class Identity(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A token issuer (OpenID Connect) and the claims to use."""

    issuer: str
    """The value of the tokens' `iss`."""
    audience: str
    """A value that the tokens' `aud` must contain."""
    jwks_url: str = ""
    """The URL of its keys, `http://` or `https://`; empty: taken from its discovery document."""
    ca_file: str = ""
    """CAs (PEM) for its certificate, instead of the system's."""
    tenant_claim: str = "tenant"
    tier_claim: str = "tier"

    def __post_init__(self) -> None:
        if not self.audience:
            raise ValueError("audience is empty: set it to what tokens must be meant for")
        check_url("jwks_url", self.jwks_url)
        if not self.jwks_url:
            check_url("issuer", self.issuer or "?")


class ApiKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A client's key for `X-Api-Key`; `counterfoil gateway key` makes one, and its entry here."""

    sha256: str
    """The hash of the whole key, in hex; the key itself is not stored."""
    tenant: str
    tier: str = DEFAULT_TIER

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise ValueError("sha256 must be 64 hex digits: `counterfoil gateway key NAME`")
        _check_tenant(self.tenant)


class SigningKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A client that signs requests (RFC 9421, hmac-sha256) with a secret that the gateway has."""

    secret_file: str
    """A file with the secret, at least 32 bytes; relative to the configuration's folder. It is read
    at start and at each reload."""
    tenant: str
    tier: str = DEFAULT_TIER

    def __post_init__(self) -> None:
        _check_tenant(self.tenant)


def check_url(name: str, url: str) -> None:
    """Check a URL; an empty one is valid."""
    if url and not url.startswith(("http://", "https://")):
        raise ValueError(f"{name} must begin with http:// or https://, not {url!r}")
    if "@" in url:
        raise ValueError(f"{name} must not hold credentials: they would be shown")
    if url and not _is_address(url):
        raise ValueError(f"{name} {url!r} is no address: use one such as https://host:4318")


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and parts.port != 0 and url.isprintable() and " " not in url
    except ValueError:
        return False  # the port or the IPv6 address is invalid


def _check_tenant(tenant: str) -> None:
    if not re.fullmatch(r"[!-~]{1,128}", tenant):
        raise ValueError("tenant must be 1 to 128 visible ASCII characters")
