"""Sanitises untrusted text for both databases."""


def storable(text: str) -> str:
    """Replace NULs, which PostgreSQL rejects, and unpaired surrogates."""
    return text.replace("\0", "\ufffd").encode(errors="replace").decode()
