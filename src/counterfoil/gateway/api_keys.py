"""Makes API keys."""

import hashlib
import re
import secrets
from typing import Final

from counterfoil.errors import CounterfoilError

NAME: Final = re.compile(r"[a-z0-9-]{1,64}")


class WrongName(CounterfoilError):
    """The name isn't allowed for a key."""


def new_api_key(name: str) -> tuple[str, str]:
    """A new key of 256 random bits, and the `sha256` for the configuration.

    Raises:
        WrongName: the name isn't 1 to 64 lowercase letters, digits and hyphens.
    """
    if not NAME.fullmatch(name):
        raise WrongName(
            f"{name!r} is no name for a key", hint="use 1 to 64 of a to z, 0 to 9 and hyphens"
        )
    key = f"cf_{name}_{secrets.token_urlsafe(32)}"
    return key, hashlib.sha256(key.encode()).hexdigest()
