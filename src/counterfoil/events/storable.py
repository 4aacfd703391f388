"""Text from outside, made acceptable to both databases."""


def storable(text: str) -> str:
    """The text without NULs, which PostgreSQL does not take, and halves of characters."""
    return text.replace("\0", "\ufffd").encode(errors="replace").decode()
