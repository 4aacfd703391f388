"""Apache Spark with Delta Lake as the engine of reports.

Rows are passed from Python as Arrow, and results come back as Arrow; no Python runs in the cluster.

Spark writes a table's files and commits them in one call, with the caller's application id and
version: Delta skips the whole write if the table already has that version of that id. A call has
one id, so each partition of a source is its own commit here. An append is exactly once because no
other driver can write (`driver`), because reading starts at the positions in the table, and because
rows and position are one commit.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from counterfoil import faults
from counterfoil.reports.delta import open_table
from counterfoil.reports.driver import Driver
from counterfoil.reports.engine import Dialect, Part, not_in_yet
from counterfoil.reports.query import in_days

if TYPE_CHECKING:
    import pyarrow


class Spark:
    """Writes and computes through one driver."""

    dialect: Dialect = "spark"

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        # pyspark is an extra: its types may be missing where this is type-checked.
        self._session: Any = driver.session

    def append(self, path: Path, parts: Mapping[str, Part], now_us: int) -> None:
        """A commit for each part; Spark sets its own timestamp."""
        table = open_table(path, write=True)
        if not faults.sabotaged("append-without-transaction"):
            parts = not_in_yet(table, parts)
        for key, part in parts.items():
            with self._driver.asked(f"append to {path}"):
                self._append(path, key, part)
            faults.point("lake.after-commit")

    def compute(
        self, path: Path, version: int, days: Collection[str], name: str, queries: Mapping[str, str]
    ) -> "dict[str, pyarrow.Table]":
        """A job for each query; partitions of other days are not read."""
        (day,) = open_table(path, version=version).metadata().partition_columns
        answers: dict[str, pyarrow.Table] = {}
        with self._driver.asked(f"read version {version} of {path}"):
            if faults.sabotaged("uncommitted-file"):
                rows = self._every_file(path)
            else:
                rows = self._session.read.format("delta").option("versionAsOf", version)
                rows = rows.load(str(path)).where(in_days(day, days, self.dialect))
            rows.createOrReplaceTempView(name)
        for section, query in queries.items():
            with self._driver.asked(f"section {section}"):
                answers[section] = self._session.sql(query).toArrow()
        return answers

    def overwrite(
        self, path: Path, rows: "pyarrow.Table", days: Collection[str], note: str
    ) -> None:
        """One overwrite with a predicate."""
        (day,) = open_table(path, write=True).metadata().partition_columns
        with self._driver.asked(f"overwrite days of {path}"):
            writer = self._frame(rows).write.format("delta").mode("overwrite")
            writer = writer.option("replaceWhere", in_days(day, days, self.dialect))
            writer.option("userMetadata", note).save(str(path))

    def _append(self, path: Path, key: str, part: Part) -> None:
        before = set(path.glob("*/*.parquet"))

        def written() -> bool:
            return any(map(_is_whole, set(path.glob("*/*.parquet")) - before))

        with faults.point_inside("lake.before-commit", written, self._driver.pid):
            writer = self._frame(part.rows).write.format("delta").mode("append")
            if not faults.sabotaged("append-without-transaction"):
                writer = writer.option("txnAppId", key).option("txnVersion", part.position)
            writer.save(str(path))

    def _frame(self, rows: "pyarrow.Table") -> Any:
        """A data frame with one partition: the rows come from one process's memory."""
        return self._session.createDataFrame(rows).coalesce(1)

    def _every_file(self, path: Path) -> Any:
        """The seeded bug: reads all files in the table's folder, committed or not."""
        self._session.conf.set("spark.databricks.delta.formatCheck.enabled", "false")
        self._session.conf.set("spark.sql.sources.partitionColumnTypeInference.enabled", "false")
        return self._session.read.option("ignoreCorruptFiles", "true").parquet(str(path))


def _is_whole(file: Path) -> bool:
    """Whether a data file is complete: it begins and ends with the same magic bytes."""
    content = file.read_bytes()
    return len(content) > 4 and content.endswith(b"PAR1")
