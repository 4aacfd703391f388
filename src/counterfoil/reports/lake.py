"""Delta tables: appended to exactly once, read only as committed.

An append writes its data files first; they are no part of the table until one commit names them,
together with how far the source has been read (application transactions of the Delta protocol).
A writer that died between the two leaves files that nobody reads; one that died after it finds,
on its next start, the positions in the table itself.
"""

import json
import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from counterfoil import faults
from counterfoil.reports.definition import Commit, Found, Table

if TYPE_CHECKING:
    import deltalake


class Lake:
    """All tables below `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def writer(self, table: Table[Any]) -> "LakeWriter":
        """The writer of one table; one process at a time should append to a table."""
        return LakeWriter(self, table)

    def open(self, table: Table[Any]) -> "deltalake.DeltaTable | None":
        """The table's newest version, or None before its first commit."""
        import deltalake  # noqa: PLC0415 - heavy

        path = self.folder / table.name
        if not (path / "_delta_log").exists():
            return None
        return deltalake.DeltaTable(str(path))

    def sums_by_file(
        self, table: Table[Any], column: str, known: Mapping[str, tuple[int, int]]
    ) -> dict[str, tuple[int, int]]:
        """Rows and sum of `column` of each file of the newest version; `known` ones aren't read."""
        import duckdb  # noqa: PLC0415 - heavy

        delta = self.open(table)
        files = [] if delta is None else delta.file_uris()
        found = {file: known[file] for file in files if file in known}
        if new := [file for file in files if file not in known]:
            with duckdb.connect() as connection:
                connection.execute("SET threads = 1")
                rows = connection.execute(
                    f"SELECT filename, count(*), sum({column})::BIGINT "  # noqa: S608
                    "FROM read_parquet(?, filename = true) GROUP BY filename",
                    [new],
                ).fetchall()
            found |= {file: (count, amount) for file, count, amount in rows}
        return found

    def find(self, table: Table[Any], column: str, value: int) -> Found | None:
        """The file and the commit of the row where `column` is `value`."""
        import duckdb  # noqa: PLC0415 - heavy

        delta = self.open(table)
        if delta is None or not (files := delta.file_uris()):
            return None
        with duckdb.connect() as connection:
            row = connection.execute(
                f"SELECT filename FROM read_parquet(?, filename = true) WHERE {column}::BIGINT = ? "  # noqa: S608
                "LIMIT 1",
                [files, value],
            ).fetchone()
        if row is None:
            return None
        file = str(Path(row[0]).relative_to((self.folder / table.name).resolve()))
        for version in range(delta.version(), -1, -1):
            path = self.folder / table.name / "_delta_log" / f"{version:020}.json"
            entries = [json.loads(line) for line in path.read_text().splitlines()]
            if any(entry.get("add", {}).get("path") == file for entry in entries):
                times = [e["commitInfo"]["timestamp"] for e in entries if "commitInfo" in e]
                return Found(file, version, times[0] * 1000 if times else 0)
        return None


class LakeWriter:
    """Appends to one table."""

    def __init__(self, lake: Lake, table: Table[Any]) -> None:
        import pyarrow  # noqa: PLC0415 - heavy

        self._lake = lake
        self._table = table
        self._path = lake.folder / table.name
        types = {
            "int64": pyarrow.int64(),
            "string": pyarrow.string(),
            "bool": pyarrow.bool_(),
            "date32": pyarrow.date32(),
        }
        columns = [(name, types[kind]) for name, kind in table.columns().items()]
        self._schema = pyarrow.schema(columns)
        self._delta = lake.open(table)
        self._seen: set[tuple[object, ...]] = set()

    def positions(self, source: str, partitions: int) -> dict[int, int]:
        """The next offset of each partition of `source`, as the table itself knows it."""
        if self._delta is None:
            return {}
        self._delta.update_incremental()
        found: dict[int, int] = {}
        for partition in range(partitions):
            version = self._delta.transaction_version(f"{source}/{partition}")
            if version is not None:
                found[partition] = version
        return found

    def append(
        self, rows: Sequence[Any], *, source: str, positions: Mapping[int, int], now_us: int
    ) -> Commit:
        """Append rows and positions in one commit.

        The caller reads from `positions()` on, and is the table's only writer: that is what
        makes an append happen once.
        """
        import deltalake  # noqa: PLC0415
        import pyarrow  # noqa: PLC0415
        from deltalake.transaction import AddAction, RemoveAction  # noqa: PLC0415

        if faults.sabotaged("duplicate-payloads"):
            rows = self._unseen(rows)
        if self._delta is None:
            self._path.mkdir(parents=True, exist_ok=True)
            self._delta = deltalake.DeltaTable.create(
                str(self._path), self._schema, partition_by=[self._table.day], mode="ignore"
            )
        by_day: dict[str, list[Any]] = {}
        for row in rows:
            by_day.setdefault(getattr(row, self._table.day), []).append(row)
        actions: list[AddAction | RemoveAction] = []
        for day, those in sorted(by_day.items()):
            table = pyarrow.table(
                {
                    name: pyarrow.array([getattr(row, name) for row in those], type=kind)
                    for name, kind in zip(self._schema.names, self._schema.types, strict=True)
                    if name != self._table.day
                }
            )
            path = f"{self._table.day}={day}/part-{uuid.uuid4()}.parquet"
            size = _write(self._path / path, table)
            statistics = json.dumps({"numRecords": len(those)})
            actions.append(
                AddAction(path, size, {self._table.day: day}, now_us // 1000, True, statistics)
            )
        faults.point("lake.before-commit")
        self._delta.create_write_transaction(
            actions,
            mode="append",
            schema=self._delta.schema(),
            partition_by=[self._table.day],
            commit_properties=deltalake.CommitProperties(
                app_transactions=[
                    deltalake.Transaction(f"{source}/{partition}", offset, now_us // 1000)
                    for partition, offset in positions.items()
                ]
            ),
        )
        self._delta.update_incremental()
        faults.point("lake.after-commit")
        return Commit(self._delta.version(), len(rows))

    def _unseen(self, rows: Sequence[Any]) -> list[Any]:
        """The seeded bug: what looks like an earlier event is taken for it."""
        kept: list[Any] = []
        for row in rows:
            content = tuple(getattr(row, name) for name in self._schema.names if name != "id")
            if content not in self._seen:
                self._seen.add(content)
                kept.append(row)
        return kept


def _write(path: Path, table: Any) -> int:
    """Write a data file and have it on disk before a commit can name it; returns its bytes."""
    import pyarrow.parquet  # noqa: PLC0415

    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(table, path, compression="zstd")
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return path.stat().st_size
