"""Computes a report for the days that changed, and publishes it in one step.

The published document holds the version of the source that it was computed from and the rows of
every section by day. It is replaced as one file; CSV and HTML are made from it, and made again
when a crash came between.
"""

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from counterfoil import faults
from counterfoil.reports.definition import Report, Run
from counterfoil.reports.errors import ReportsError
from counterfoil.reports.lake import Lake
from counterfoil.reports.publish import csv_text, html_text

DOCUMENT: Final = "report.json"


def published(report: Report, folder: Path) -> dict[str, Any]:
    """The document of `report` as it was last published into `folder`.

    Its version is -1 before the first time.
    """
    try:
        return json.loads((folder / DOCUMENT).read_text())
    except FileNotFoundError:
        return {
            "name": report.name,
            "title": report.title,
            "version": -1,
            "published_us": 0,
            "sections": {},
            "reasons": {},
        }


class ReportRunner:
    """Runs one report over `lake` and publishes into `folder`."""

    def __init__(self, lake: Lake, report: Report, folder: Path) -> None:
        self._lake = lake
        self._report = report
        self._folder = folder

    def run(self, now_us: int) -> Run:
        """Bring the published report up to the newest version of its source.

        Raises:
            ReportsError: a section's SQL can't be run, or has no column `day`.
        """
        delta = self._lake.open(self._report.source)
        if delta is None:
            return Run(-1, {})
        document = published(self._report, self._folder)
        version = delta.version()
        if version == document["version"] or not delta.file_uris():
            if document["version"] >= 0 and not (self._folder / "index.html").exists():
                self._publish(document)
            return Run(version, {})
        touched = self._touched(document["version"], version)
        files = delta.file_uris()
        if faults.sabotaged("uncommitted-file"):
            folder = self._lake.folder / self._report.source.name
            files = [str(path) for path in folder.glob("*/*.parquet")]
            touched = {Path(file).parent.name.partition("=")[2] for file in files}
        day_of = {file: Path(file).parent.name.partition("=")[2] for file in files}
        read = [file for file in files if day_of[file] in touched]
        days = {day: self._reason(document, day, now_us) for day in sorted(touched)}
        for name, query in self._report.sections.items():
            columns, rows = self._compute(name, query, read)
            section = document["sections"].setdefault(name, {"days": {}})
            section["columns"] = columns
            for day in touched:
                section["days"][day] = []
            for row in rows:
                section["days"][row[columns.index("day")]].append(row)
        document |= {"version": version, "published_us": now_us}
        document["reasons"] |= days
        faults.point("report.before-publish")
        self._publish(document)
        return Run(version, days)

    def _touched(self, after: int, version: int) -> set[str]:
        """The days to which the commits after one version added or from which they removed."""
        table = self._report.source
        days: set[str] = set()
        for number in range(after + 1, version + 1):
            path = self._lake.folder / table.name / "_delta_log" / f"{number:020}.json"
            for line in path.read_text().splitlines():
                entry: dict[str, Any] = json.loads(line)
                for action in ("add", "remove"):
                    if action in entry:
                        days.add(entry[action]["partitionValues"][table.day])
        return days

    def _reason(self, document: dict[str, Any], day: str, now_us: int) -> str:
        if day not in document["reasons"]:
            return "new"
        time = datetime.fromtimestamp(now_us // 1_000_000, UTC).strftime("%Y-%m-%d %H:%M:%S")
        return f"corrected {time} UTC: rows arrived after version {document['version']}"

    def _compute(self, name: str, query: str, files: list[str]) -> tuple[list[str], list[Any]]:
        import duckdb  # noqa: PLC0415 - heavy

        table = self._report.source
        with duckdb.connect() as connection:
            connection.execute("SET threads = 1")
            connection.execute(
                f"CREATE VIEW {table.name} AS "  # noqa: S608
                f"SELECT * REPLACE ({table.day}::VARCHAR AS {table.day}) "
                f"FROM read_parquet({files!r}, hive_partitioning = true)"
            )
            try:
                found = connection.execute(query)
            except duckdb.Error as error:
                raise ReportsError(
                    f"report {self._report.name}, section {name}: {error}"
                ) from error
            columns = [column[0] for column in found.description or []]
            if "day" not in columns:
                raise ReportsError(
                    f"report {self._report.name}, section {name} has no column `day`",
                    hint="SELECT day, ... GROUP BY day",
                )
            return columns, sorted(list(row) for row in found.fetchall())

    def _publish(self, document: dict[str, Any]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        _replace(self._folder / DOCUMENT, json.dumps(document))
        for name, section in document["sections"].items():
            _replace(self._folder / f"{name}.csv", csv_text(section, self._report.amounts))
        _replace(self._folder / "index.html", html_text(document, self._report.amounts))


def _replace(path: Path, text: str) -> None:
    """Readers see the old or the new file; after a crash as well."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
