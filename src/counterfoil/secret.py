"""Constant-time comparison of secrets.

`==` stops at the first differing byte, so its duration reveals how much of a guess was right. A
test forbids other comparisons of secrets (`tests/application/test_tidy.py`); the gateway has its
own in `crates/gateway/src/secret.rs`.
"""

import hmac


def matches(given: str, secret: str) -> bool:
    """Whether `given` equals `secret`, in a time that depends on lengths only."""
    return hmac.compare_digest(given.encode(), secret.encode())
