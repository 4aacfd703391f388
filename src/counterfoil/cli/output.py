"""Output of commands: tables for people, JSON for programs.

A table is for people: its cells are text as it came, whatever signs stand in a key or an error, and
never markup. Where no terminal reads it, it is as wide as its rows: a name that is cut or folded at
80 columns can't be searched for, nor given to the next command. A document is for programs.
"""

import os
import sys
from collections.abc import Collection, Iterable, Sequence
from typing import Final, Literal

import msgspec
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

UNBOUNDED: Final = 10_000
"""Columns where nobody looks: wider than a row of any table here but one with a very long error."""


def new_console(*, stderr: bool = False) -> Console:
    """A console for people: in the terminal's width, or in that of what is printed."""
    stream = sys.stderr if stderr else sys.stdout
    bounded = stream.isatty() or "COLUMNS" in os.environ
    return Console(stderr=stderr, width=None if bounded else UNBOUNDED)


out: Final = new_console()


Rows = Iterable[Sequence[RenderableType | int]]


def print_table(columns: Sequence[str], rows: Rows, *, right: Collection[str] = ()) -> None:
    """Print a table of `new_table`."""
    out.print(new_table(columns, rows, right=right), highlight=False)


def new_table(columns: Sequence[str], rows: Rows, *, right: Collection[str] = ()) -> Table:
    """A table: strings as they are, integers (which are counts: an id is a string) grouped.

    Columns of integers, and those named in `right`, are flush right.
    """
    found = list(rows)
    table = Table(*columns, box=None)
    for number, column in enumerate(table.columns):
        if columns[number] in right or any(isinstance(row[number], int) for row in found):
            column.justify = "right"
    for row in found:
        table.add_row(*map(_cell, row))
    return table


def _cell(cell: RenderableType | int) -> RenderableType:
    if isinstance(cell, int):
        return f"{cell:,}"
    return Text(cell) if isinstance(cell, str) else cell


Style = Literal["bold", "dim", "red", "yellow", "green"]


def styled(text: str, style: Style) -> Text:
    """Text as it is, in a style."""
    return Text(text, style=style)


def write_json(document: object) -> None:
    """Write a document to standard output, over several lines."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(document)).decode() + "\n")


def write_json_line(document: object) -> None:
    """Write a document to standard output in one line, at once: more of them follow."""
    sys.stdout.write(msgspec.json.encode(document).decode() + "\n")
    sys.stdout.flush()
