"""Signs requests for the gateway: HTTP Message Signatures (RFC 9421) by HMAC with SHA-256."""

import hashlib
import hmac
import secrets
from base64 import b64encode
from urllib.parse import urlsplit


def signed_headers(
    method: str, url: str, body: bytes, *, key_id: str, secret: bytes, created: int
) -> dict[str, str]:
    """The headers that sign a request.

    `created` is the time in seconds since 1970; the gateway accepts each signature once, within a
    minute of it. Only method, path, query and body are covered; to cover more, a client has to sign
    by itself: see docs/gateway.md.
    """
    parts = urlsplit(url)
    digest = b64encode(hashlib.sha256(body).digest()).decode()
    headers = {"content-digest": f"sha-256=:{digest}:"}
    covered = '("@method" "@path" "@query" "content-digest")'
    nonce = secrets.token_urlsafe(12)
    parameters = f'{covered};created={created};keyid="{key_id}";alg="hmac-sha256";nonce="{nonce}"'
    base = (
        f'"@method": {method}\n'
        f'"@path": {parts.path or "/"}\n'
        f'"@query": ?{parts.query}\n'
        f'"content-digest": {headers["content-digest"]}\n'
        f'"@signature-params": {parameters}'
    )
    signature = b64encode(hmac.digest(secret, base.encode(), "sha256")).decode()
    return headers | {"signature-input": f"sig={parameters}", "signature": f"sig=:{signature}:"}
