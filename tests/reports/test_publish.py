"""What people open: cells that no spreadsheet carries out, lines that stop at a missing day."""

import re
from typing import Any

from counterfoil.reports.publish import CHART_HEIGHT, csv_text, html_text

DAYS = {
    "2026-01-01": [["2026-01-01", "=HYPERLINK(1)", -500, True]],
    "2026-01-02": [["2026-01-02", "a", 1_500, True]],
    "2026-01-03": [],
    "2026-01-05": [["2026-01-05", "-b", 700, False]],
    "2026-01-06": [["2026-01-06", "c", None, False]],
}
SECTION: dict[str, Any] = {"columns": ["day", "buyer", "revenue", "gift"], "days": DAYS}


def document(days: dict[str, Any]) -> dict[str, Any]:
    return {
        "title": "Sales",
        "version": 1,
        "reasons": dict.fromkeys(days, "new"),
        "sections": {"totals": {**SECTION, "days": days}},
    }


def test_what_a_client_sent_is_no_formula_and_a_negative_amount_is_a_number() -> None:
    lines = csv_text(SECTION, ("revenue",)).splitlines()
    assert lines[1] == "2026-01-01,'=HYPERLINK(1),-5.00,True"
    assert lines[3] == "2026-01-05,'-b,7.00,False"
    assert lines[4] == "2026-01-06,c,,False"


def test_a_chart_holds_what_is_below_zero_and_is_broken_where_days_are_missing() -> None:
    page = html_text(document(DAYS), ("revenue",))
    lines = [
        [tuple(map(float, point.split(","))) for point in found.split()]
        for found in re.findall(r'polyline points="([^"]*)"', page)
    ]
    # Of the one column of numbers: a truth is none.
    assert len(lines) == 2
    assert [[x for x, _ in line] for line in lines] == [[0, 250], [1000, 1000]]
    heights = [y for line in lines for _, y in line]
    assert min(heights) >= 0
    assert max(heights) == CHART_HEIGHT, "the lowest is below zero, and within the chart"
    zero = float(re.findall(r'<line x1="0" y1="([\d.]+)"', page)[0])
    assert zero < CHART_HEIGHT
    assert "17.00 in all, at most 15.00 on 2026-01-02" in page
    assert "=HYPERLINK(1)" in page


def test_one_day_alone_and_none_are_shown() -> None:
    assert "polyline points" in html_text(document({"2026-01-01": DAYS["2026-01-01"]}), ())
    assert "polyline points" not in html_text(document({"2026-01-03": []}), ())
