"""The results of sections in one form for every engine.

Engines have different types for the same number (Spark's ranks have 32 bits, DuckDB's sums 128) and
return rows in any order. Published results have the four column types of tables, and are sorted by
all columns from left to right.
"""

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from counterfoil.reports.errors import ReportsError

if TYPE_CHECKING:
    import pyarrow


def canonical(section: str, rows: "pyarrow.Table", days: Collection[str]) -> "pyarrow.Table":
    """The same rows, sorted, as int64, string, bool and date32.

    Raises:
        ReportsError: a column has another type, or a row's day is not in `days`.
    """
    import pyarrow  # noqa: PLC0415 - heavy
    from pyarrow import compute  # noqa: PLC0415

    fields: list[tuple[str, pyarrow.DataType]] = []
    kinds: list[Any] = rows.schema.types
    for name, kind in zip(rows.column_names, kinds, strict=True):
        if pyarrow.types.is_integer(kind):
            fields.append((name, pyarrow.int64()))
        elif pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind):
            fields.append((name, pyarrow.string()))
        elif pyarrow.types.is_boolean(kind) or pyarrow.types.is_date32(kind):
            fields.append((name, kind))
        else:
            raise ReportsError(
                f"section {section}: column {name} has the type {kind}",
                hint="cast it: ...::BIGINT (money in minor units), ...::VARCHAR or ...::DATE",
            )
    found = rows.cast(pyarrow.schema(fields))
    strangers = set(compute.unique(found["day"]).to_pylist()).difference(days)
    if strangers:
        raise ReportsError(
            f"section {section}: column day has {strangers.pop()!r}, which is no day that was read"
        )
    return found.sort_by([(name, "ascending") for name in found.column_names])
