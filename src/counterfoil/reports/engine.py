"""What reports ask of an engine: three things that it does with Delta tables.

Everything else is the same whatever the engine, because it is in the tables themselves: how far a
source was read, which days a commit touched, which files are part of a version.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    import pyarrow

Dialect = Literal["duckdb", "spark"]


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of one partition of a source, and its next offset once they are in."""

    rows: "pyarrow.Table"
    position: int


class Engine(Protocol):
    """Writes and computes; a path is the folder of a Delta table that exists."""

    dialect: Dialect
    """The words in which `compute` wants its queries."""

    def append(self, path: Path, parts: Mapping[str, Part], now_us: int) -> None:
        """Append the parts, each in one commit with its position under its key.

        The key is the application id of the Delta protocol, `source/partition`.

        Raises:
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
