"""Deterministic ids, so that a repetition gets the same one."""

import hashlib
from typing import Final

_ESCAPES: Final = str.maketrans({"\0": "\x01\x03", "\x01": "\x01\x02"})
"""Of what parts two parts: names with it in them are another's neither."""


BEYOND: Final = 1 << 63
"""The first number that is no id: both databases keep 64 bits, of which ours use 63."""


def identity_in(text: str) -> int | None:
    """The id that a header holds, or None: others may have written it, and anything into it."""
    number = int(text) if text.isascii() and text.isdigit() and len(text) <= 19 else BEYOND
    return number if number < BEYOND else None


def identity_of(*parts: object) -> int:
    """An id that follows from `parts`, so that a repetition has the same: 63 bits of BLAKE2b.

    Two of a thousand million ids are equal with a chance of 1 in 18; ids that are compared share a
    topic or a ledger, where equal ids with another content are refused and not mixed up.
    """
    text = "\0".join(str(part).translate(_ESCAPES) for part in parts)
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1
