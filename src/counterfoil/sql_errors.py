"""Reasons of SQL errors in plain text."""

from sqlglot.errors import ParseError, SqlglotError


def reason(error: SqlglotError) -> str:
    """The place and description of the first error.

    The error's own message highlights the place with terminal escape codes.
    """
    if isinstance(error, ParseError) and error.errors:
        first = error.errors[0]
        return f"line {first['line']}, column {first['col']}: {first['description']}"
    return str(error)
