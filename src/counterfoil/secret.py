"""Constant-time comparison of secrets, in this one place.

`==` ends at the first byte that differs, and so tells by its duration how much of a guess was
right. A test keeps every other comparison out (`tests/application/test_tidy.py`); the gateway's own
is in `crates/gateway/src/secret.rs`.
"""

import hmac


def matches(given: str, secret: str) -> bool:
    """Whether `given` is the secret, in a time that depends on its length alone."""
    return hmac.compare_digest(given.encode(), secret.encode())
