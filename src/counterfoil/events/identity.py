"""Deterministic ids: repeated work gets the same ones."""

import hashlib
from typing import Final

_ESCAPES: Final = str.maketrans({"\0": "\x01\x03", "\x01": "\x01\x02"})
"""Escapes the separator of parts, so that names that contain it don't collide with others."""


BEYOND: Final = 1 << 63
"""The first number that is no id: ids have 63 bits, as both databases store signed 64-bit integers.
"""


def identity_in(text: str) -> int | None:
    """The id in a header, or None if invalid: foreign producers may write anything into it."""
    number = int(text) if text.isascii() and text.isdigit() and len(text) <= 19 else BEYOND
    return number if number < BEYOND else None


def identity_of(*parts: object) -> int:
    """An id derived from `parts`: 63 bits of BLAKE2b.

    Among 1,000 million ids, the chance that any two are equal is 1 in 18. Ids are compared only
    within a topic or a ledger, where an equal id with other content is rejected.
    """
    text = "\0".join(str(part).translate(_ESCAPES) for part in parts)
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1
