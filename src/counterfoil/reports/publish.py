"""Publishes a computed report as CSV files and one HTML page.

A text in a CSV file that a spreadsheet would evaluate as a formula is prefixed with an apostrophe:
texts come from clients, and a formula could leak the reader's other cells (OWASP, "CSV Injection").
Numbers are unchanged. Programs read the sections' Delta tables.
"""

import csv
import io
from collections.abc import Sequence
from datetime import date
from itertools import pairwise
from typing import Any, Final

CHART_WIDTH: Final = 1000
CHART_HEIGHT: Final = 220
CHART_TOP: Final = 10
"""Space above the largest value, part of the height."""
ROWS_SHOWN: Final = 31
FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")
"""Characters that start a formula in a spreadsheet."""

_PAGE: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>{{ title }}</title>
<style>
:root { color-scheme: light dark; --line: #2563eb; --soft: color-mix(in srgb, currentColor 20%, transparent) }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; display: block; overflow-x: auto }
th, td { padding: .2rem .9rem .2rem 0; text-align: right; border-bottom: 1px solid var(--soft) }
th:first-child, td:first-child { text-align: left }
svg { width: 100%; height: auto }
polyline { fill: none; stroke: var(--line); stroke-width: 1.5; stroke-linecap: round }
svg text { font-size: 12px; fill: currentColor } svg line { stroke: var(--soft) }
</style></head><body><main><h1>{{ title }}</h1>
<p>Version {{ version }} of the source, {{ days }} days.</p>
{% if unread %}<p role="status">Events that could not be read, and are not in this report: {{ unread }}. They wait among the dead letters.</p>{% endif %}
{% for section in sections %}<section><h2>{{ section.name }}</h2>
{% for chart in section.charts %}
<figure><figcaption>{{ chart.name }}: {{ chart.total }} in all, at most {{ chart.largest }} on {{ chart.best }}</figcaption>
<svg viewBox="0 0 1000 245" role="img" aria-label="{{ chart.name }} by day">
<line x1="0" y1="{{ chart.zero }}" x2="1000" y2="{{ chart.zero }}"/>
{% for points in chart.lines %}<polyline points="{{ points }}"/>{% endfor %}
<text x="0" y="240">{{ chart.first }}</text><text x="1000" y="240" text-anchor="end">{{ chart.last }}</text>
</svg></figure>{% endfor %}
<table><thead><tr>{% for column in section.columns %}<th scope="col">{{ column }}</th>{% endfor %}</tr></thead>
<tbody>{% for row in section.rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>{% endfor %}</tbody></table>
<p>The newest {{ section.rows | length }} of {{ section.count }} rows; all are in <a href="{{ section.name }}.csv">{{ section.name }}.csv</a>.</p>
</section>{% endfor %}</main></body></html>
"""


def amount_text(minor: int | None) -> str:
    """Minor units as an exact decimal with two places; empty for None."""
    if minor is None:
        return ""
    sign = "-" if minor < 0 else ""
    return f"{sign}{abs(minor) // 100}.{abs(minor) % 100:02}"


def csv_text(section: dict[str, Any], amounts: tuple[str, ...]) -> str:
    """A section's rows, by day."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(section["columns"])
    writer.writerows([_plain(cell) for cell in row] for row in _cells(section, amounts))
    return text.getvalue()


def html_text(document: dict[str, Any], amounts: tuple[str, ...]) -> str:
    """A self-contained page: a chart for each number by day, and the newest rows."""
    import jinja2  # noqa: PLC0415 - only publishing needs it

    sections: list[dict[str, Any]] = []
    for name, section in document["sections"].items():
        rows = [[text for text, _ in row] for row in _cells(section, amounts)]
        one_a_day = all(len(rows) <= 1 for rows in section["days"].values())
        sections.append(
            {
                "name": name,
                "columns": section["columns"],
                "rows": rows[-ROWS_SHOWN:],
                "count": len(rows),
                "charts": _charts(section, amounts) if one_a_day else [],
            }
        )
    environment = jinja2.Environment(autoescape=True)
    return environment.from_string(_PAGE).render(
        title=document["title"],
        version=document["version"],
        days=len(document["reasons"]),
        unread=document.get("unread", 0),
        sections=sections,
    )


def _cells(section: dict[str, Any], amounts: tuple[str, ...]) -> list[list[tuple[Any, bool]]]:
    """Rows by day: each cell as shown, and whether it was a text."""
    money = {index for index, name in enumerate(section["columns"]) if name in amounts}
    return [
        [
            (amount_text(cell) if index in money else cell, isinstance(cell, str))
            for index, cell in enumerate(row)
        ]
        for day in sorted(section["days"])
        for row in section["days"][day]
    ]


def _plain(cell: tuple[Any, bool]) -> Any:
    shown, is_text = cell
    return f"'{shown}" if is_text and shown.startswith(FORMULA) else shown


def _charts(section: dict[str, Any], amounts: tuple[str, ...]) -> list[dict[str, Any]]:
    """A chart for each integer column; days without a value break the line."""
    charts: list[dict[str, Any]] = []
    rows = {day: rows[0] for day, rows in sorted(section["days"].items()) if rows}
    for index, name in enumerate(section["columns"]):
        cells = {day: row[index] for day, row in rows.items() if row[index] is not None}
        if not cells or not all(type(value) is int for value in cells.values()):
            continue
        days, values = list(cells), list(cells.values())
        low, high = min(*values, 0), max(*values, 1)
        scale = (CHART_HEIGHT - CHART_TOP) / (high - low)
        heights = [CHART_TOP + (high - value) * scale for value in values]
        text = amount_text if name in amounts else str
        charts.append(
            {
                "name": name,
                "total": text(sum(values)),
                "largest": text(max(values)),
                "best": days[values.index(max(values))],
                "first": days[0],
                "last": days[-1],
                "zero": f"{CHART_TOP + high * scale:.1f}",
                "lines": _lines(_places(days), heights),
            }
        )
    return charts


def _places(days: Sequence[str]) -> list[int]:
    """Days since the first one; consecutive numbers if they aren't dates."""
    try:
        dates = [date.fromisoformat(day) for day in days]
    except ValueError:
        return list(range(len(days)))
    return [(each - dates[0]).days for each in dates]


def _lines(places: list[int], heights: list[float]) -> list[str]:
    """The points of each line of consecutive days; a single day is a dot."""
    step = CHART_WIDTH / max(places[-1], 1)
    points = [f"{x * step:.1f},{y:.1f}" for x, y in zip(places, heights, strict=True)]
    lines = [[points[0]]]
    for (before, after), point in zip(pairwise(places), points[1:], strict=True):
        if after > before + 1:
            lines.append([])
        lines[-1].append(point)
    return [" ".join(line if len(line) > 1 else line * 2) for line in lines]
