"""The port of report engines: three operations on Delta tables.

Everything else is independent of the engine, because it is stored in the tables: how far a source
was read, which days a commit changed, which files belong to a version.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from counterfoil.reports.errors import AlreadyMoved

if TYPE_CHECKING:
    import deltalake
    import pyarrow

Dialect = Literal["duckdb", "spark"]


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of one partition of a source, and its next offset after them."""

    rows: "pyarrow.Table"
    position: int
    start: int = field(kw_only=True)
    """The offset they were read from, which must be the table's position."""


def not_in_yet(table: "deltalake.DeltaTable", parts: Mapping[str, Part]) -> dict[str, Part]:
    """The `parts` that the table doesn't have yet.

    Raises:
        AlreadyMoved: it has only some of a part's rows, or lacks those before them.
    """
    new: dict[str, Part] = {}
    for key, part in parts.items():
        position = table.transaction_version(key) or 0
        if position >= part.position:
            continue
        if position != part.start:
            raise AlreadyMoved(
                f"rows {part.start} to {part.position - 1} of {key} are to be appended, and the "
                f"table goes on at {position}",
                hint="another process has appended to it: read again from there, and let one "
                "process at a time keep a table",
            )
        new[key] = part
    return new


class Engine(Protocol):
    """Writes and computes; a path is the folder of an existing Delta table."""

    dialect: Dialect
    """The SQL dialect of the queries passed to `compute`."""

    def append(self, path: Path, parts: Mapping[str, Part], now_us: int) -> None:
        """Append the parts, each in one commit with its position under its key.

        The key, `source/partition`, is an application id of the Delta protocol. A part that is
        already in the table is skipped.

        Raises:
            AlreadyMoved: the table is not at a part's start; nothing was appended.
            EngineLost: the table's positions tell what was appended.
        """
        ...

    def compute(
        self, path: Path, version: int, days: Collection[str], name: str, queries: Mapping[str, str]
    ) -> "dict[str, pyarrow.Table]":
        """The result of each query on the rows of some days of a version, visible as `name`.

        Raises:
            ReportsError: names the query that failed.
            EngineLost: nothing was done.
        """
        ...

    def overwrite(
        self, path: Path, rows: "pyarrow.Table", days: Collection[str], note: str
    ) -> None:
        """Replace all rows of `days` with `rows`, in one commit with `note`.

        Raises:
            EngineLost: it was done completely or not at all.
        """
        ...
