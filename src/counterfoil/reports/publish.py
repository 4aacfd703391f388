"""Turns a computed report into what people open: CSV files and one HTML page."""

import csv
import io
from typing import Any, Final

CHART_WIDTH: Final = 1000
CHART_HEIGHT: Final = 220
ROWS_SHOWN: Final = 31

_PAGE: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>{{ title }}</title>
<style>
:root { color-scheme: light dark; --line: #2563eb; --soft: color-mix(in srgb, currentColor 20%, transparent) }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; display: block; overflow-x: auto }
th, td { padding: .2rem .9rem .2rem 0; text-align: right; border-bottom: 1px solid var(--soft) }
th:first-child, td:first-child { text-align: left }
svg { width: 100%; height: auto } polyline { fill: none; stroke: var(--line); stroke-width: 1.5 }
svg text { font-size: 12px; fill: currentColor } svg line { stroke: var(--soft) }
</style></head><body><main><h1>{{ title }}</h1>
<p>Version {{ version }} of the source, {{ days }} days.</p>
{% if unread %}<p role="status">Events that could not be read, and are not in this report: {{ unread }}. They wait among the dead letters.</p>{% endif %}
{% for section in sections %}<section><h2>{{ section.name }}</h2>
{% for chart in section.charts %}
<figure><figcaption>{{ chart.name }}: {{ chart.total }} in all, at most {{ chart.largest }} on {{ chart.best }}</figcaption>
<svg viewBox="0 0 1000 245" role="img" aria-label="{{ chart.name }} by day">
<line x1="0" y1="220" x2="1000" y2="220"/><polyline points="{{ chart.points }}"/>
<text x="0" y="240">{{ chart.first }}</text><text x="1000" y="240" text-anchor="end">{{ chart.last }}</text>
</svg></figure>{% endfor %}
<table><thead><tr>{% for column in section.columns %}<th scope="col">{{ column }}</th>{% endfor %}</tr></thead>
<tbody>{% for row in section.rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>{% endfor %}</tbody></table>
<p>The newest {{ section.rows | length }} of {{ section.count }} rows; all are in <a href="{{ section.name }}.csv">{{ section.name }}.csv</a>.</p>
</section>{% endfor %}</main></body></html>
"""


def amount_text(minor: int | None) -> str:
    """Minor units as a decimal with two places, exactly; nothing where there is no amount."""
    if minor is None:
        return ""
    sign = "-" if minor < 0 else ""
    return f"{sign}{abs(minor) // 100}.{abs(minor) % 100:02}"


def csv_text(section: dict[str, Any], amounts: tuple[str, ...]) -> str:
    """A section's rows, by day."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(section["columns"])
    writer.writerows(_shown(section, amounts))
    return text.getvalue()


def html_text(document: dict[str, Any], amounts: tuple[str, ...]) -> str:
    """One page that needs nothing else: a chart for each number by day, and the newest rows."""
    import jinja2  # noqa: PLC0415 - only publishing needs it

    sections: list[dict[str, Any]] = []
    for name, section in document["sections"].items():
        rows = _shown(section, amounts)
        one_a_day = all(len(rows) == 1 for rows in section["days"].values())
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


def _shown(section: dict[str, Any], amounts: tuple[str, ...]) -> list[list[Any]]:
    money = {index for index, name in enumerate(section["columns"]) if name in amounts}
    return [
        [amount_text(cell) if index in money else cell for index, cell in enumerate(row)]
        for day in sorted(section["days"])
        for row in section["days"][day]
    ]


def _charts(section: dict[str, Any], amounts: tuple[str, ...]) -> list[dict[str, str]]:
    days = sorted(section["days"])
    charts: list[dict[str, str]] = []
    for index, name in enumerate(section["columns"]):
        values = [section["days"][day][0][index] for day in days]
        if not values or not all(isinstance(value, int) for value in values):
            continue
        largest = max(*values, 1)
        step = CHART_WIDTH / max(len(values) - 1, 1)
        points = (
            f"{number * step:.1f},{CHART_HEIGHT - value / largest * (CHART_HEIGHT - 10):.1f}"
            for number, value in enumerate(values)
        )
        text = amount_text if name in amounts else str
        charts.append(
            {
                "name": name,
                "total": text(sum(values)),
                "largest": text(max(values)),
                "best": days[values.index(max(values))],
                "first": days[0],
                "last": days[-1],
                "points": " ".join(points),
            }
        )
    return charts
