"""Text from outside, as both databases keep it: whatever it says must stop nobody who notes it."""


def storable(text: str) -> str:
    """The text without NULs, which PostgreSQL does not take, and halves of characters."""
    return text.replace("\0", "\ufffd").encode(errors="replace").decode()
