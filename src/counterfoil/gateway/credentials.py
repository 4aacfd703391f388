"""Settings of clients' credentials: token issuers, API keys, signing keys."""

import re
from typing import Final
from urllib.parse import urlsplit

import msgspec

DEFAULT_TIER: Final = "bronze"
"""Of keys that name none; where `tiers` doesn't have it, it is the lowest, as all others are."""


class Identity(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Who vouches for clients (OpenID Connect), and which claims matter."""

    issuer: str
    """As the tokens' `iss` names it."""
    audience: str
    """What the tokens' `aud` must hold."""
    jwks_url: str = ""
    """Where its keys are, by `http://` or `https://`; empty: where its discovery document says."""
    ca_file: str = ""
    """Authorities (PEM) that vouch for its certificate, in place of those this machine trusts."""
    tenant_claim: str = "tenant"
    tier_claim: str = "tier"

    def __post_init__(self) -> None:
        if not self.audience:
            raise ValueError("audience is empty: set it to what tokens must be meant for")
        check_url("jwks_url", self.jwks_url)
        if not self.jwks_url:
            check_url("issuer", self.issuer or "?")


class ApiKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Who may show a key in `X-Api-Key`; `counterfoil gateway key` makes one, and its entry."""

    sha256: str
    """Of the whole key, in hex: the key itself is its holder's alone."""
    tenant: str
    tier: str = DEFAULT_TIER

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise ValueError("sha256 must be 64 hex digits: `counterfoil gateway key NAME`")
        _check_tenant(self.tenant)


class SigningKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Who may sign requests (RFC 9421, hmac-sha256) with a secret that client and gateway share."""

    secret_file: str
    """Holds the secret, at least 32 bytes; relative to the configuration's folder. Read at the
    start and at each reload."""
    tenant: str
    tier: str = DEFAULT_TIER

    def __post_init__(self) -> None:
        _check_tenant(self.tenant)


def check_url(name: str, url: str) -> None:
    """Empty is fine."""
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
        return False  # of the port, or of an address in brackets


def _check_tenant(tenant: str) -> None:
    if not re.fullmatch(r"[!-~]{1,128}", tenant):
        raise ValueError("tenant must be 1 to 128 visible ASCII characters")
