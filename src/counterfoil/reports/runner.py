"""Computes a report for the days that changed, and publishes it.

Every section is published twice: as a Delta table, whose changed days are overwritten in one
commit, for programs; and in the report's document, from which CSV and HTML are made for people. The
document contains the source version that it was computed from, and each section's query and rows by
day. It is replaced last, as one file, so after a crash the next run recomputes the same days. A
section whose query has changed is recomputed for all days; one no longer declared is deleted. A
changed title or `amounts` is published at once, even if no row changed: files in the old units
would be wrong by a factor of a hundred.

A day counts as corrected if its rows change after it was published and is over, in UTC. Until then
it is expected to grow.
"""

import json
import os
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from counterfoil import faults
from counterfoil.reports.answers import canonical
from counterfoil.reports.definition import Report, Run
from counterfoil.reports.delta import columns, create, data_files, open_table
from counterfoil.reports.engine import Engine
from counterfoil.reports.errors import ReportsError
from counterfoil.reports.lake import Lake
from counterfoil.reports.publish import csv_text, html_text

if TYPE_CHECKING:
    import pyarrow

DOCUMENT: Final = "report.json"
TABLES: Final = "tables"


def published(report: Report, folder: Path) -> dict[str, Any]:
    """The last published document of `report` in `folder`.

    Its version is -1 if there is none.
    """
    try:
        return json.loads((folder / DOCUMENT).read_text())
    except FileNotFoundError:
        return {
            "name": report.name,
            "title": report.title,
            "amounts": list(report.amounts),
            "version": -1,
            "published_us": 0,
            "unread": 0,
            "sections": {},
            "reasons": {},
        }


def check_tables(lake: Lake, report: Report, folder: Path) -> None:
    """Check that all existing tables of `report` can be read and written.

    Raises:
        UnknownFeature: one of them can't.
    """
    for path in (lake.folder / report.source.name, *(folder / TABLES).glob("*")):
        if (path / "_delta_log").exists():
            open_table(path, write=True)


class ReportRunner:
    """Runs one report over `lake` and publishes it into `folder`.

    Raises:
        QueryRefused: a section's SQL is not the same on all engines.
    """

    def __init__(self, lake: Lake, report: Report, folder: Path, engine: Engine) -> None:
        from counterfoil.reports.query import checked, text  # noqa: PLC0415 - heavy

        self._lake = lake
        self._report = report
        self._folder = folder
        self._engine = engine
        queries = checked(report)
        self._queries = {name: text(query, engine.dialect) for name, query in queries.items()}
        self._written = {name: text(query, "duckdb") for name, query in queries.items()}

    def run(self, now_us: int, *, unread: int | None = None) -> Run:
        """Publish the report for the newest version of its source.

        `unread` is the number of events of the source that could not be read and are in no table,
        to be stated in the report; None if unknown, which keeps the last number.

        Raises:
            ReportsError: a section's SQL can't be run.
            EngineLost: the engine is gone; the next run repeats what was not published.
        """
        delta = self._lake.open(self._report.source)
        if delta is None:
            return Run(-1, {})
        document = published(self._report, self._folder)
        version, after = delta.version(), document["version"]
        shown = {
            "title": self._report.title,
            "amounts": list(self._report.amounts),
            "unread": document.get("unread", 0) if unread is None else unread,
        }
        is_shown = all(document.get(name) == value for name, value in shown.items())
        document |= shown
        source = self._lake.folder / self._report.source.name
        present = set(data_files(source, delta).values())
        renewed = self._renewed(document)
        if (version == after and not renewed) or not (present or document["reasons"]):
            if after >= 0 and not is_shown:
                self._publish(document)
            return Run(version, {})
        touched = self._lake.touched(self._report.source, after, version) if after >= 0 else None
        if renewed or touched is None:
            touched = present.union(document["reasons"])
        if faults.sabotaged("uncommitted-file"):
            touched = {folder.name.partition("=")[2] for folder in source.glob("*=*")}
        days = {
            day: _reason(document, day, renewed, datetime.fromtimestamp(now_us // 1_000_000, UTC))
            for day in sorted(touched)
        }
        answers = self._compute(source, version, touched) if touched else {}
        self._forget(document)
        for name, rows in answers.items():
            self._overwrite(name, rows, touched, version)
            section = document["sections"].setdefault(name, {"days": {}})
            section |= {"query": self._written[name], "columns": rows.column_names}
            section["days"] |= {day: [] for day in touched}
            for row in rows.to_pylist():
                section["days"][row["day"]].append(list(row.values()))
        document |= {"version": version, "published_us": now_us}
        document["reasons"] |= days
        faults.point("report.before-publish")
        self._publish(document)
        return Run(version, days)

    def _renewed(self, document: dict[str, Any]) -> list[str]:
        """The sections to recompute or to delete, by a comparison with the document."""
        known = {name: section.get("query") for name, section in document["sections"].items()}
        return sorted(
            name
            for name in known.keys() | self._written.keys()
            if known.get(name) != self._written.get(name)
            or not (self._table(name) / "_delta_log").exists()
        )

    def _forget(self, document: dict[str, Any]) -> None:
        """Delete what was published of sections that are no longer declared."""
        for name in document["sections"].keys() - self._written.keys():
            (self._folder / f"{name}.csv").unlink(missing_ok=True)
            shutil.rmtree(self._table(name), ignore_errors=True)
            del document["sections"][name]

    def _compute(self, source: Path, version: int, days: set[str]) -> "dict[str, pyarrow.Table]":
        name = self._report.source.name
        try:
            answers = self._engine.compute(source, version, days, name, self._queries)
            return {name: canonical(name, rows, days) for name, rows in answers.items()}
        except ReportsError as error:
            message = f"report {self._report.name}, {error.args[0]}"
            raise type(error)(message, hint=error.hint) from error

    def _table(self, section: str) -> Path:
        return self._folder / TABLES / section

    def _overwrite(self, section: str, rows: "pyarrow.Table", days: set[str], version: int) -> None:
        table = self._table(section)
        if (table / "_delta_log").exists() and columns(open_table(table)) != rows.schema:
            shutil.rmtree(table)  # from another query; after a crash here the section is new
        create(table, rows.schema, "day")
        note = {"report": self._report.name, "section": section, "source_version": version}
        self._engine.overwrite(table, rows, days, json.dumps(note))

    def _publish(self, document: dict[str, Any]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        for name, section in document["sections"].items():
            _replace(self._folder / f"{name}.csv", csv_text(section, self._report.amounts))
        _replace(self._folder / "index.html", html_text(document, self._report.amounts))
        _replace(self._folder / DOCUMENT, json.dumps(document, default=str))


def _reason(document: dict[str, Any], day: str, renewed: list[str], now: datetime) -> str:
    """Why a day is published: as new, which it remains until it is over, or as corrected."""
    if day not in document["reasons"]:
        return "new"
    if renewed:
        why = f"the definition of {', '.join(renewed)} changed"
    elif day >= now.date().isoformat():
        return document["reasons"][day]
    else:
        why = f"rows arrived after version {document['version']}"
    return f"corrected {now:%Y-%m-%d %H:%M:%S} UTC: {why}"


def _replace(path: Path, text: str) -> None:
    """Replace a file atomically, even across a crash."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
