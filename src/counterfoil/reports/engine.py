"""The port of report engines: three operations on Delta tables.

Everything else is the same whatever the engine, because it is in the tables themselves: how far a
source was read, which days a commit touched, which files are part of a version.
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
    """Rows of one partition of a source, and its next offset once they are in."""

    rows: "pyarrow.Table"
    position: int
    start: int = field(kw_only=True)
    """The offset from which on they were read: where the table must have come to."""


def not_in_yet(table: "deltalake.DeltaTable", parts: Mapping[str, Part]) -> dict[str, Part]:
    """Those of `parts` that a version of the table doesn't have, each of them whole.

    Raises:
        AlreadyMoved: it has some of a part's rows, or not what comes before them.
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
    """Writes and computes; a path is the folder of a Delta table that exists."""

    dialect: Dialect
    """The words in which `compute` wants its queries."""

    def append(self, path: Path, parts: Mapping[str, Part], now_us: int) -> None:
        """Append the parts, each in one commit with its position under its key.

        The key is the application id of the Delta protocol, `source/partition`. A part that is in
        the table already is passed over.

        Raises:
            AlreadyMoved: the table is not where a part begins; nothing was appended.
            EngineLost: whether anything was appended, the positions in the table tell.
        """
        ...

    def compute(
        self, path: Path, version: int, days: Collection[str], name: str, queries: Mapping[str, str]
    ) -> "dict[str, pyarrow.Table]":
        """The answer to each query over the rows of some days of one version, seen as `name`.

        Raises:
            ReportsError: names the query that can't be answered.
            EngineLost: nothing was done.
        """
        ...

    def overwrite(
        self, path: Path, rows: "pyarrow.Table", days: Collection[str], note: str
    ) -> None:
        """Put `rows` in the place of all rows of `days`, in one commit that carries `note`.

        Raises:
            EngineLost: it was done whole or not at all.
        """
        ...
