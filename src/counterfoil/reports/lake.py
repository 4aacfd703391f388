"""Delta tables: appended to exactly once, read only as committed.

This part is the same for every engine, because its state is in the tables: the positions up to
which a source was read are in the commits that added its rows. So any engine can continue any
table.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from counterfoil import faults
from counterfoil.reports.definition import Batch, Found, Table
from counterfoil.reports.delta import create, data_files, open_table
from counterfoil.reports.engine import Engine, Part

if TYPE_CHECKING:
    import deltalake
    import pyarrow


class Lake:
    """Reads all tables below `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def open(self, table: Table[Any]) -> "deltalake.DeltaTable | None":
        """The table's newest version, or None before its first commit.

        Raises:
            UnknownFeature: the table would be read wrongly.
        """
        path = self.folder / table.name
        return open_table(path) if (path / "_delta_log").exists() else None

    def files(self, table: Table[Any]) -> dict[str, str]:
        """The files of the newest version, each with its day."""
        delta = self.open(table)
        return {} if delta is None else data_files(self.folder / table.name, delta)

    def sums_by_file(
        self, table: Table[Any], column: str, known: Mapping[str, tuple[int, int]]
    ) -> dict[str, tuple[int, int]]:
        """Row count and sum of `column` for each file of the newest version; `known` ones aren't
        read."""
        import duckdb  # noqa: PLC0415 - heavy

        files = self.files(table)
        found = {file: known[file] for file in files if file in known}
        if new := [file for file in files if file not in known]:
            with duckdb.connect() as connection:
                connection.execute("SET threads = 1")
                rows = connection.execute(
                    f'SELECT filename, count(*), sum("{column}")::BIGINT '  # noqa: S608
                    "FROM read_parquet(?, filename = true) GROUP BY filename",
                    [new],
                ).fetchall()
            found |= {file: (count, amount) for file, count, amount in rows}
        return found

    def find(self, table: Table[Any], column: str, value: int) -> Found | None:
        """The file and the commit of the row where `column` is `value`.

        Old commits are deleted. If the row's commit is gone, the version is the one before the
        oldest remaining commit, an upper bound, and the time is that of the file.
        """
        import duckdb  # noqa: PLC0415 - heavy

        delta = self.open(table)
        if delta is None or not (files := list(data_files(self.folder / table.name, delta))):
            return None
        with duckdb.connect() as connection:
            row = connection.execute(
                "SELECT filename FROM read_parquet(?, filename = true) "  # noqa: S608
                f'WHERE "{column}"::BIGINT = ? LIMIT 1',
                [files, value],
            ).fetchone()
        if row is None:
            return None
        file = str(Path(row[0]).relative_to(self.folder / table.name))
        version = delta.version()
        while version >= 0:
            try:
                entries = self._commit(table, version)
            except FileNotFoundError:
                break
            if any(entry.get("add", {}).get("path") == file for entry in entries):
                times = [e["commitInfo"]["timestamp"] for e in entries if "commitInfo" in e]
                return Found(file, version, times[0] * 1000 if times else 0)
            version -= 1
        return Found(file, version, Path(row[0]).stat().st_mtime_ns // 1000)

    def touched(self, table: Table[Any], after: int, version: int) -> set[str] | None:
        """The days whose rows changed in the commits after `after`, up to `version`.

        None if the log doesn't tell: old commits are deleted, and a file may be removed without its
        day. Then any day may have changed.
        """
        days: set[str] = set()
        for number in range(after + 1, version + 1):
            try:
                entries = self._commit(table, number)
            except FileNotFoundError:
                return None
            for entry in entries:
                for action in (entry.get("add"), entry.get("remove")):
                    if not action or not action["dataChange"]:
                        continue
                    if table.day not in action.get("partitionValues", {}):
                        return None
                    days.add(action["partitionValues"][table.day])
        return days

    def _commit(self, table: Table[Any], version: int) -> list[dict[str, Any]]:
        path = self.folder / table.name / "_delta_log" / f"{version:020}.json"
        return [json.loads(line) for line in path.read_text().splitlines()]


class LakeWriter:
    """Appends to one table.

    Only one process at a time should. A writer that always reads from `positions()` on appends each
    row once, however often it crashes. Of two concurrent writers the later one is refused: it finds
    the table beyond the position it started from.
    """

    def __init__(self, lake: Lake, table: Table[Any], engine: Engine) -> None:
        self._lake = lake
        self._table = table
        self._engine = engine
        self._seen: set[tuple[object, ...]] = set()

    def positions(self, source: str, partitions: int) -> dict[int, int]:
        """The next offset of each partition of `source`, from the table itself."""
        delta = self._lake.open(self._table)
        if delta is None:
            return {}
        found = {n: delta.transaction_version(f"{source}/{n}") for n in range(partitions)}
        return {number: offset for number, offset in found.items() if offset is not None}

    def append(self, batches: Mapping[int, Batch], *, source: str, now_us: int) -> None:
        """Append what was read from each partition of `source`, with its next offset.

        Raises:
            UnknownFeature: the table would be written wrongly.
            AlreadyMoved: another process appended some of it; read from `positions()` again.
            EngineLost: the engine is gone; `positions()` tells what was appended.
        """
        path = self._lake.folder / self._table.name
        create(path, self._table.schema(), self._table.day)
        parts = {
            f"{source}/{partition}": Part(self._arrow(batch), batch.next_offset, start=batch.start)
            for partition, batch in batches.items()
        }
        self._engine.append(path, parts, now_us)

    def _arrow(self, batch: Batch) -> "pyarrow.Table":
        import pyarrow  # noqa: PLC0415 - heavy

        rows = batch.rows
        if faults.sabotaged("duplicate-payloads"):
            rows = [row for row in rows if self._is_new(row)]
        schema = self._table.schema()
        columns = {name: [getattr(row, name) for row in rows] for name in schema.names}
        return pyarrow.table(columns, schema=schema)

    def _is_new(self, row: object) -> bool:
        """The seeded bug: an event that looks like an earlier one counts as its duplicate."""
        names = self._table.columns().keys() - {"id"}
        content = tuple(getattr(row, name) for name in sorted(names))
        known = content in self._seen
        self._seen.add(content)
        return not known
