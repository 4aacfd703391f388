"""Splits an SQL script into statements."""

import re
import sqlite3
from collections.abc import Iterator
from typing import Final

_COMMENT: Final = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)


def statements(script: str) -> Iterator[str]:
    """The statements of a script, without the semicolons between them.

    Semicolons within a string, a comment or a trigger's body don't separate statements.
    """
    statement = ""
    for part in script.split(";"):
        statement += part
        if sqlite3.complete_statement(f"{statement};"):
            if bare(statement):
                yield statement.strip()
            statement = ""
        else:
            statement += ";"
    if bare(statement.removesuffix(";")):
        yield statement.removesuffix(";").strip()


def bare(statement: str) -> str:
    """A statement without comments."""
    return _COMMENT.sub("", statement).strip()
