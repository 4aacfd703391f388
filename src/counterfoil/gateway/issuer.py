"""A small OpenID Connect issuer for development: anyone who can reach it gets a token.

It is started only when the configuration has an `[issuer]` table, and listens on loopback by
default. In production, configure your own issuer instead.
"""

import os
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl

from joserfc import jwt
from joserfc.jwk import ECKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

LIFETIME_SECONDS: Final = 3600
TIERS: Final = ("gold", "bronze")


class DevelopmentIssuer:
    """Signs with the ES256 key in `key_file`, which is created on first use."""

    def __init__(self, issuer: str, audience: str, key_file: Path) -> None:
        self._issuer = issuer
        self._audience = audience
        if not key_file.exists():
            key = ECKey.generate_key("P-256", auto_kid=True)
            temporary = key_file.with_name(f"{key_file.name}.{os.getpid()}.tmp")
            with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
                file.write(key.as_pem(private=True))
            temporary.replace(key_file)
        self._key = ECKey.import_key(key_file.read_bytes())
        self._kid = self._key.thumbprint()

    def token(
        self, tenant: str, tier: str, *, now: int, lifetime_seconds: int = LIFETIME_SECONDS
    ) -> str:
        """A signed token for `tenant`; `now` is in seconds since 1970."""
        claims = {
            "iss": self._issuer,
            "aud": self._audience,
            "sub": tenant,
            "tenant": tenant,
            "tier": tier,
            "iat": now,
            "nbf": now,
            "exp": now + lifetime_seconds,
        }
        return jwt.encode({"alg": "ES256", "kid": self._kid}, claims, self._key)

    def application(self) -> Starlette:
        """Discovery, keys and tokens over HTTP."""
        import time  # noqa: PLC0415 - only the server knows the time

        async def discovery(_: Request) -> JSONResponse:
            return JSONResponse(
                {
                    "issuer": self._issuer,
                    "jwks_uri": f"{self._issuer}/jwks.json",
                    "token_endpoint": f"{self._issuer}/token",
                    "id_token_signing_alg_values_supported": ["ES256"],
                }
            )

        async def keys(_: Request) -> JSONResponse:
            public = self._key.as_dict(private=False)
            return JSONResponse({"keys": [{**public, "kid": self._kid, "alg": "ES256"}]})

        async def token(request: Request) -> JSONResponse:
            form = dict(parse_qsl((await request.body()).decode(errors="replace")))
            tenant, tier = form.get("tenant", ""), form.get("tier", "bronze")
            if not tenant or tier not in TIERS:
                detail = "send tenant, and tier as gold or bronze"
                return JSONResponse(
                    {"error": "invalid_request", "error_description": detail}, status_code=400
                )
            issued = self.token(tenant, tier, now=int(time.time()))
            return JSONResponse(
                {
                    "access_token": issued,
                    "token_type": "Bearer",
                    "expires_in": LIFETIME_SECONDS,
                }
            )

        return Starlette(
            routes=[
                Route("/.well-known/openid-configuration", discovery),
                Route("/jwks.json", keys),
                Route("/token", token, methods=["POST"]),
            ]
        )
