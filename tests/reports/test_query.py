"""A section's SQL: what is refused, where the error points, and what it says to do instead."""

import pytest
from sales import SALES, Sale

from counterfoil.reports import QueryRefused, Report, Table
from counterfoil.reports.query import checked, text


def report(sql: str) -> Report:
    return Report("daily", Table("sales", Sale), {"totals": sql}, title="Sales")


REFUSED = {
    "SELECT day, avg(amount) AS a FROM sales GROUP BY day": "sums and counts",
    "SELECT day, sum(amount) / 2 AS a FROM sales GROUP BY day": "sums and counts",
    "SELECT day, amount // 2 AS a FROM sales": "sums and counts",
    "SELECT day, amount % 2 AS a FROM sales": "sums and counts",
    "SELECT day, round(amount) AS a FROM sales": "sums and counts",
    "SELECT day, amount * 1.5 AS a FROM sales": "cents",
    "SELECT day, amount::DOUBLE AS a FROM sales": "BIGINT",
    "SELECT day, amount::DECIMAL(10, 2) AS a FROM sales": "BIGINT",
    "SELECT day, median(amount) AS a FROM sales GROUP BY day": "CASE",
    "SELECT day, quantile_cont(amount, 0.5) AS a FROM sales GROUP BY day": "CASE",
    "SELECT day, day::DATE + INTERVAL 1 DAY AS a FROM sales": "DATE '",
    "SELECT day, datediff('month', day::DATE, due) AS a FROM sales": "month(...)",
    "SELECT day, isodow(due) AS a FROM sales": "docs/reports.md",
    "SELECT day, date_trunc('month', due) AS a FROM sales": "docs/reports.md",
    "SELECT day, string_agg(buyer, ',') AS a FROM sales GROUP BY day": "a row for each",
    "SELECT day, list(buyer) AS a FROM sales GROUP BY day": "a row for each",
    "SELECT day, [1, 2][1] AS a FROM sales": "docs/reports.md",
    "SELECT day, buyer LIKE 'a%' AS a FROM sales": "starts_with",
    "SELECT day, concat(buyer, buyer) AS a FROM sales": "||",
    "SELECT day, now() AS a FROM sales": "docs/reports.md",
    "SELECT day, buyer FROM sales LIMIT 3": "QUALIFY",
    "SELECT * FROM sales": "name the columns",
    "SELECT day, count(*) FROM sales GROUP BY day": "AS name",
    "SELECT day, buyer FROM sales TABLESAMPLE 10%": "docs/reports.md",
    "SELECT day, x FROM other": "read from sales",
    "SELECT day FROM read_csv('/etc/passwd')": "read from sales",
    "SELECT day FROM 'sales.parquet'": "read from sales",
    "SELECT a.day, b.buyer FROM sales a JOIN sales b ON true": "in the event",
    "SELECT a.day, b.buyer FROM sales a, sales b": "in the event",
    "DROP TABLE sales": "SELECT day",
    "SELECT day FROM sales; SELECT day FROM sales": "SELECT day",
    "": "SELECT day",
    "SELECT day, buyer AS x, amount AS X FROM sales": "another",
    "SELECT day, left(buyer, -1) AS a FROM sales": "left(text, 2)",
    "SELECT day, left(buyer, id) AS a FROM sales": "left(text, 2)",
    "SELECT day, buyer::BIGINT AS a FROM sales": "an int in the event",
    "SELECT day, b::BIGINT AS a FROM (SELECT day, buyer || '0' AS b FROM sales) AS c": "an int",
    "SELECT day, buyer::DATE AS a FROM sales": "a date in the event",
    "SELECT day, due > '2026'::DATE AS a FROM sales": "2026-01-31",
    "SELECT day, buyer = 1000 AS a FROM sales": "'1000'",
    "SELECT day, id IN ('1', '2') AS a FROM sales": "'1000'",
    "SELECT day FROM sales WHERE buyer BETWEEN 1 AND 2": "'1000'",
    "SELECT day, coalesce(buyer, 0) AS a FROM sales": "'1000'",
}
BEYOND_A_DAY = {
    "SELECT day, sum(sum(amount)) OVER (ORDER BY day) AS a FROM sales GROUP BY day": "PARTITION BY",
    "SELECT day, lag(amount) OVER (PARTITION BY id ORDER BY day) AS a FROM sales": "PARTITION BY",
    "SELECT buyer, count(*) AS a FROM sales GROUP BY buyer": "GROUP BY day",
    "SELECT day, count(*) AS a FROM sales GROUP BY ALL": "GROUP BY day",
    "SELECT day, count(*) AS a FROM sales GROUP BY 1": "GROUP BY day",
    "SELECT day, count(*) AS a FROM sales GROUP BY ROLLUP (day)": "GROUP BY day",
    "SELECT max(day) AS day FROM sales": "another name",
    "SELECT buyer AS day FROM sales": "another name",
    "SELECT buyer FROM sales": "SELECT day",
    "SELECT day FROM sales UNION ALL SELECT buyer FROM sales": "same columns",
    "SELECT day FROM sales WHERE buyer IN (SELECT buyer FROM sales)": "after FROM",
    "SELECT day, (SELECT max(amount) FROM sales GROUP BY day) AS a FROM sales": "after FROM",
    "WITH x(day) AS (SELECT buyer FROM sales) SELECT day FROM x": "AS name",
    "SELECT x.day FROM (SELECT buyer FROM sales) AS x(day)": "AS name",
}


@pytest.mark.parametrize("sql", [*REFUSED, *BEYOND_A_DAY])
def test_what_engines_answer_differently_or_beyond_a_day_is_refused(sql: str) -> None:
    with pytest.raises(QueryRefused, match="report daily, section totals") as refused:
        checked(report(sql))
    assert {**REFUSED, **BEYOND_A_DAY}[sql] in refused.value.hint


def test_an_error_names_the_line_and_what_is_there() -> None:
    sql = "SELECT day,\n  sum(amount) AS s,\n  median(amount) AS m\nFROM sales GROUP BY day"
    with pytest.raises(QueryRefused, match=r"section totals, line 3: `MEDIAN\(amount\)`"):
        checked(report(sql))
    with pytest.raises(QueryRefused, match=r"section totals: line 2, column \d+"):
        checked(report("SELECT day\nFRM sales WHERE"))


def test_a_name_that_may_mean_two_things_is_refused_where_it_is_used() -> None:
    hidden = "SELECT day, sum(amount) AS amount FROM sales GROUP BY day"
    assert checked(report(hidden))
    with pytest.raises(QueryRefused, match="may mean two things"):
        checked(report(f"{hidden} HAVING amount > 5"))


def test_sums_have_64_bits_on_both_engines() -> None:
    query = checked(report("SELECT day, sum(amount) AS total FROM sales GROUP BY day"))["totals"]
    assert "CAST(SUM(" in text(query, "duckdb")
    assert "CAST(SUM(" in text(query, "spark")


def test_amounts_that_no_section_has_are_refused() -> None:
    """They would be shown as numbers a hundred times too large."""
    query = "SELECT day, sum(amount) AS revenue FROM sales GROUP BY day"
    misspelt = Report("daily", SALES, {"totals": query}, title="", amounts=("revnue",))
    with pytest.raises(QueryRefused, match=r"no section has the column revnue[\s\S]*day, revenue"):
        checked(misspelt)
