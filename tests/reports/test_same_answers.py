"""Everything on the list of allowed SQL gives equal answers on both engines.

This is how a node gets on the list: it is used here, on rows picked by hand and on random ones.
"""

import datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sales import SALES, Sale
from sqlglot import exp, parse_one

from counterfoil.reports import Batch, Embedded, Lake, LakeWriter, Report
from counterfoil.reports.answers import canonical
from counterfoil.reports.query import ALLOWED, checked, text
from counterfoil.reports.spark import Spark

SCALARS = {
    "arithmetic": "amount + 1 - id * 2",
    "negative": "-amount",
    "absolute": "abs(amount)",
    "greatest_": "greatest(amount, id, 0)",
    "least_": "least(amount, id, NULL)",
    "comparisons": "(amount > 0 AND NOT gift) OR amount <= -5 OR (id >= 7 AND id < 9)",
    "equal": "amount = id",
    "different": "amount <> id",
    "alike": "nullif(amount, 0) IS NOT DISTINCT FROM nullif(id, 0)",
    "unlike": "nullif(amount, 0) IS DISTINCT FROM 3",
    "between_": "amount BETWEEN -3 AND 3",
    "among": "buyer IN ('', 'a', 'É')",
    "absent": "nullif(amount, 0) IS NULL",
    "either": "coalesce(nullif(amount, 0), id)",
    "cases": "CASE WHEN gift THEN 'gift' WHEN amount > 2 THEN buyer ELSE 'none' END",
    "simple_case": "CASE id WHEN 1 THEN TRUE WHEN 2 THEN FALSE END",
    "joined": "buyer || '-' || day",
    "joined_null": "buyer || nullif(buyer, 'a')",
    "quoted": r"buyer || 'it''s \n % _ \ " + "\"'",
    "characters": "length(buyer)",
    "starts": "starts_with(buyer, 'a')",
    "first_two": "left(buyer, 2)",
    "year_": "year(due)",
    "quarter_": "quarter(due)",
    "month_": "month(due)",
    "day_of_month": "day(due)",
    "earlier": "due < DATE '2026-01-31'",
    "as_text": "amount::VARCHAR || gift::VARCHAR || due::VARCHAR",
    "as_number": "amount::BIGINT + gift::BIGINT",
    "as_date": "day::DATE",
}
AGGREGATES = """
    count(*) AS n, count(DISTINCT buyer) AS buyers, count(nullif(amount, 0)) AS some,
    sum(amount) AS total, sum(DISTINCT amount) AS different, sum(nullif(id, id)) AS nothing,
    min(amount) AS low, max(buyer) AS last, min(due) AS first_due, max(gift) AS any_gift,
    count(*) FILTER (WHERE amount > 0) AS gains, sum(amount) FILTER (WHERE gift) AS gifts,
    sum(CASE WHEN gift THEN 1 ELSE 0 END) AS counted"""
QUERIES = {
    "scalars": f"SELECT day, id, {', '.join(f'{e} AS {n}' for n, e in SCALARS.items())} FROM sales",
    "aggregates": f"SELECT day, {AGGREGATES} FROM sales GROUP BY day",
    "groups": f"""SELECT day, buyer, gift, {AGGREGATES} FROM sales
        WHERE amount <> 5 GROUP BY day, buyer, gift HAVING count(*) > 0""",
    "windows": """SELECT day, id,
            row_number() OVER (PARTITION BY day ORDER BY amount DESC, id) AS place,
            rank() OVER (PARTITION BY day ORDER BY nullif(amount, 0)) AS shared,
            dense_rank() OVER (PARTITION BY day ORDER BY nullif(buyer, 'a') DESC) AS dense,
            lag(amount) OVER (PARTITION BY day ORDER BY buyer, id) AS before,
            lead(buyer, 2) OVER (PARTITION BY day, gift ORDER BY id) AS after_next,
            sum(amount) OVER (PARTITION BY day ORDER BY id) AS running,
            count(*) OVER (PARTITION BY day, buyer) AS of_buyer
        FROM sales""",
    "qualified": """SELECT day, buyer, sum(amount)::BIGINT AS revenue FROM sales GROUP BY day, buyer
        QUALIFY row_number() OVER (PARTITION BY day ORDER BY revenue DESC, buyer) <= 2""",
    "nested": """WITH big AS (SELECT DISTINCT day, buyer FROM sales WHERE amount > 1)
        SELECT day, count(*) AS buyers FROM (SELECT b.day, b.buyer FROM big AS b) AS c GROUP BY day
        UNION ALL SELECT day, id AS buyers FROM sales
        UNION SELECT day, 0 AS buyers FROM sales""",
}
REPORT = Report("answers", SALES, QUERIES, title="")
PICKED = [
    ("", 0, True, datetime.date(2024, 2, 29)),
    ("a", -5, False, datetime.date(1582, 10, 4)),
    ("ab", 5, True, datetime.date(1, 1, 1)),
    ("É", 2, False, datetime.date(9999, 12, 31)),
    ("e\u0301", 2, False, datetime.date(1969, 12, 31)),
    ("😀😀😀", 10**12, True, datetime.date(1970, 1, 1)),
    (" a\t\\'\"%_\n", -(10**12), False, datetime.date(2026, 1, 31)),
    ("NULL", 3, True, datetime.date(2026, 1, 30)),
    ("\uffff", 3, True, datetime.date(2026, 2, 1)),
    ("\U00010000", 3, True, datetime.date(2026, 2, 1)),
]
CONTENT = st.tuples(
    st.text(max_size=6), st.integers(-(10**15), 10**15), st.booleans(), st.dates()
) | st.tuples(
    st.sampled_from(["", "a", "b"]), st.integers(-6, 6), st.booleans(), st.just(PICKED[0][3])
)


Content = tuple[str, int, bool, datetime.date]


def compare(
    folder: Path, spark: Spark, contents: list[Content], queries: dict[str, exp.Query]
) -> None:
    days = ("2026-01-30", "2026-01-31")
    rows = [
        Sale(number, days[number % 2], buyer, amount, gift, due)
        for number, (buyer, amount, gift, due) in enumerate(contents)
    ]
    writer = LakeWriter(Lake(folder), SALES, Embedded())
    writer.append({0: Batch(rows, len(rows), start=0)}, source="sales", now_us=1)
    found = []
    for engine in (Embedded(), spark):
        texts = {name: text(query, engine.dialect) for name, query in queries.items()}
        answers = engine.compute(folder / "sales", 1, days, "sales", texts)
        found.append({name: canonical(name, table, days) for name, table in answers.items()})
    for name in queries:
        ours, theirs = (each[name].to_pylist() for each in found)
        assert ours, f"{name} is empty: nothing was compared"
        assert ours == theirs, name
        assert found[0][name].schema == found[1][name].schema


def test_rows_picked_by_hand(folder: Path, spark: Spark) -> None:
    compare(folder, spark, PICKED, checked(REPORT))


def test_the_comparison_sees_what_engines_answer_differently(folder: Path, spark: Spark) -> None:
    refused = "SELECT day, (amount * 0.5)::BIGINT AS half FROM sales"
    with pytest.raises(AssertionError, match="halves"):
        compare(folder, spark, PICKED, {"halves": parse_one(refused, dialect="duckdb")})  # type: ignore[dict-item]


@settings(
    max_examples=6,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(contents=st.lists(CONTENT, min_size=2, max_size=60))
def test_random_rows(
    tmp_path_factory: pytest.TempPathFactory, spark: Spark, contents: list[Content]
) -> None:
    compare(tmp_path_factory.mktemp("answers"), spark, contents, checked(REPORT))


def test_every_node_on_the_list_is_compared() -> None:
    used = {type(node) for query in checked(REPORT).values() for node in query.walk()}
    assert used == ALLOWED
