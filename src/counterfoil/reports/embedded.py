"""The embedded engine: delta-rs writes, DuckDB computes, both inside this process.

An append writes its data files first. They become part of the table by one commit, which also
contains the position in the source (application transactions of the Delta protocol). A writer that
dies before the commit leaves unused files; after one that dies later, its successor finds the
positions in the table.
"""

import json
import os
import uuid
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from counterfoil import faults
from counterfoil.reports.delta import columns, data_files, open_table
from counterfoil.reports.engine import Dialect, Part, not_in_yet
from counterfoil.reports.errors import ReportsError

if TYPE_CHECKING:
    import pyarrow


class Embedded:
    """DuckDB and delta-rs; needs no installation and no server."""

    dialect: Dialect = "duckdb"

    def append(self, path: Path, parts: Mapping[str, Part], now_us: int) -> None:
        """All parts in one commit."""
        import deltalake  # noqa: PLC0415 - heavy
        import pyarrow  # noqa: PLC0415
        from deltalake.transaction import AddAction, RemoveAction  # noqa: PLC0415
        from pyarrow import compute  # noqa: PLC0415

        table = open_table(path, write=True)
        (day,) = table.metadata().partition_columns
        if not faults.sabotaged("append-without-transaction"):
            # delta-rs records application transactions, but refuses a repeated one only if it was
            # committed since the table was opened here.
            parts = not_in_yet(table, parts)
        if not parts:
            return
        rows = pyarrow.concat_tables([part.rows for part in parts.values()])
        actions: list[AddAction | RemoveAction] = []
        values: list[str] = compute.unique(rows[day]).to_pylist()  # type: ignore[assignment]
        for value in sorted(values):
            those = rows.filter(compute.equal(rows[day], pyarrow.scalar(value))).drop_columns([day])
            name = f"{day}={value}/part-{uuid.uuid4()}.parquet"
            size = _write(path / name, those)
            statistics = json.dumps({"numRecords": len(those)})
            actions.append(AddAction(name, size, {day: value}, now_us // 1000, True, statistics))
        faults.point("lake.before-commit")
        table.create_write_transaction(
            actions,
            mode="append",
            schema=table.schema(),
            partition_by=[day],
            commit_properties=deltalake.CommitProperties(
                app_transactions=[
                    deltalake.Transaction(key, part.position, now_us // 1000)
                    for key, part in parts.items()
                ]
            ),
        )
        faults.point("lake.after-commit")

    def compute(
        self, path: Path, version: int, days: Collection[str], name: str, queries: Mapping[str, str]
    ) -> "dict[str, pyarrow.Table]":
        """Every query by DuckDB, on the files of those days."""
        import duckdb  # noqa: PLC0415 - heavy
        import pyarrow  # noqa: PLC0415

        table = open_table(path, version=version)
        (day,) = table.metadata().partition_columns
        files = [file for file, value in data_files(path, table).items() if value in days]
        if faults.sabotaged("uncommitted-file"):
            files = [str(file) for file in path.glob("*/*.parquet")]
        with duckdb.connect() as connection:
            connection.execute("SET threads = 1")
            if files:
                connection.execute(
                    f'CREATE VIEW "{name}" AS '  # noqa: S608
                    f'SELECT * REPLACE ("{day}"::VARCHAR AS "{day}") '
                    f"FROM read_parquet({files!r}, hive_partitioning = true)"
                )
            else:
                connection.register(name, columns(table).empty_table())
            answers: dict[str, pyarrow.Table] = {}
            for section, query in queries.items():
                try:
                    answers[section] = connection.sql(query).to_arrow_table()
                except duckdb.Error as error:
                    raise ReportsError(f"section {section}: {error}") from error
            return answers

    def overwrite(
        self, path: Path, rows: "pyarrow.Table", days: Collection[str], note: str
    ) -> None:
        """One overwrite with a predicate."""
        import deltalake  # noqa: PLC0415 - heavy

        from counterfoil.reports.query import in_days  # noqa: PLC0415 - heavy

        table = open_table(path, write=True)
        (day,) = table.metadata().partition_columns
        deltalake.write_deltalake(
            table,
            rows,
            mode="overwrite",
            predicate=in_days(day, days, self.dialect),
            commit_properties=deltalake.CommitProperties(custom_metadata={"userMetadata": note}),
        )


def _write(path: Path, table: Any) -> int:
    """Write a data file and sync it to disk, before a commit refers to it; returns its size."""
    import pyarrow.parquet  # noqa: PLC0415

    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(table, path, compression="zstd")
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return path.stat().st_size
