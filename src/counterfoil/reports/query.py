"""The SQL of a report's sections, checked and translated for each engine.

A section is written once, in DuckDB's SQL. It is parsed into a tree, and every node of the tree
must be on an allowlist: what is on it gave equal results on DuckDB and on Spark over hand-picked
and random data (`tests/reports/test_same_answers.py`). On the rest, engines differ silently:
rounding, division by zero, medians, a week's first day, the order within a list, backslashes in a
pattern. So this is not a general transpiler: anything else is an error that says what to write
instead.

This includes texts in place of numbers or dates: what DuckDB reads as a number (`'1.5'`, `'0x1F'`,
`'1_000'`) is an error on Spark, so texts are compared with texts only.

A second rule follows from how reports are computed. Only the days that changed are read, so a
query's rows for a day must not depend on other days: aggregates group by the day, windows are
partitioned by it, and there are no joins across days.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import date
from types import MappingProxyType
from typing import Final

from sqlglot import exp, parse
from sqlglot.errors import SqlglotError
from sqlglot.optimizer.annotate_types import annotate_types
from sqlglot.optimizer.qualify import qualify

from counterfoil.reports.definition import Report
from counterfoil.reports.engine import Dialect
from counterfoil.reports.errors import QueryRefused
from counterfoil.sql_errors import reason

SHOWN: Final = 60
"""Characters of a refused expression shown in the error."""

ALLOWED: Final = frozenset(
    (
        # The shape of a query.
        *(exp.Select, exp.From, exp.Table, exp.TableAlias, exp.Subquery, exp.With, exp.CTE),
        *(exp.Where, exp.Group, exp.Having, exp.Qualify, exp.Order, exp.Ordered, exp.Distinct),
        *(exp.Union, exp.Alias, exp.Column, exp.Identifier, exp.Star, exp.Paren),
        # Values.
        *(exp.Literal, exp.Boolean, exp.Null, exp.Cast, exp.DataType, exp.Case, exp.If),
        *(exp.Coalesce, exp.Nullif, exp.Greatest, exp.Least),
        # Operators.
        *(exp.And, exp.Or, exp.Not, exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE),
        *(exp.Between, exp.In, exp.Is, exp.NullSafeEQ, exp.NullSafeNEQ),
        *(exp.Add, exp.Sub, exp.Mul, exp.Neg, exp.Abs),
        # Text, by code points.
        *(exp.DPipe, exp.Length, exp.StartsWith, exp.Left),
        # Dates.
        *(exp.Year, exp.Quarter, exp.Month, exp.Day),
        # Aggregates and windows.
        *(exp.Count, exp.Sum, exp.Min, exp.Max, exp.Filter),
        *(exp.Window, exp.RowNumber, exp.Rank, exp.DenseRank, exp.Lag, exp.Lead),
    )
)
CASTS: Final = MappingProxyType(
    {
        exp.DataType.Type.BIGINT: "BIGINT",
        exp.DataType.Type.TEXT: "VARCHAR",
        exp.DataType.Type.DATE: "DATE",
    }
)
COLUMNS: Final = MappingProxyType(
    {"int64": "BIGINT", "string": "VARCHAR", "bool": "BOOLEAN", "date32": "DATE"}
)
"""Column types in SQL."""
COMPARED: Final = (
    *(exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE, exp.NullSafeEQ, exp.NullSafeNEQ),
    *(exp.In, exp.Between, exp.Nullif, exp.Coalesce, exp.Greatest, exp.Least),
)
"""Nodes whose operands are coerced to one type, by rules that differ between engines."""
_NO_FRACTIONS: Final = "keep sums and counts in columns of their own; divide where they are shown"
INSTEAD: Final[Mapping[type[exp.Expr], str]] = MappingProxyType(
    {
        exp.Div: _NO_FRACTIONS,
        exp.IntDiv: _NO_FRACTIONS,
        exp.Mod: _NO_FRACTIONS,
        exp.Avg: _NO_FRACTIONS,
        exp.Round: _NO_FRACTIONS,
        exp.Median: "engines interpolate differently; count by ranges of values with CASE",
        exp.Quantile: "engines interpolate differently; count by ranges of values with CASE",
        exp.PercentileCont: "engines interpolate differently; count by ranges of values with CASE",
        exp.Limit: "QUALIFY row_number() OVER (PARTITION BY day ORDER BY ...) <= 10",
        exp.Join: "store what the report needs in the event",
        exp.Interval: "CAST(day AS DATE) and compare with DATE '2026-01-31'",
        exp.DateDiff: "compare dates, or year(...) and month(...)",
        exp.GroupConcat: "a row for each element: GROUP BY day, element",
        exp.ArrayAgg: "a row for each element: GROUP BY day, element",
        exp.Like: "starts_with(text, 'prefix'), or =",
        exp.Concat: "text || text",
        exp.Extract: "year(...), quarter(...), month(...) or day(...)",
        exp.TryCast: "an int, a date or a bool in the event",
    }
)


def checked(report: Report) -> dict[str, exp.Query]:
    """The checked syntax trees of all sections by name.

    Raises:
        QueryRefused: names the report, the section, the line, what was found, and what to use; or a
            column in `amounts` that no section has, since it would be shown as a plain number.
    """
    found = {name: _Section(report, name).checked() for name in report.sections}
    named = {column for query in found.values() for column in query.named_selects}
    if unknown := sorted(set(report.amounts) - named):
        raise QueryRefused(
            f"report {report.name}: no section has the column {', '.join(unknown)} of `amounts`",
            hint=f"one of {', '.join(sorted(named))}",
        )
    return found


def text(query: exp.Query, dialect: Dialect) -> str:
    """The query in an engine's dialect."""
    tree = query.copy()
    for total in tree.find_all(exp.Sum):
        outer = total
        while isinstance(outer.parent, (exp.Filter, exp.Window)):
            outer = outer.parent
        if not isinstance(outer.parent, exp.Cast):  # DuckDB's sums have 128 bits, Spark's 64
            outer.replace(exp.cast(outer.copy(), "BIGINT"))
    return tree.sql(dialect=dialect, identify=True, comments=False)


def in_days(column: str, days: Collection[str], dialect: Dialect) -> str:
    """The condition that `column` is one of `days`."""
    found = exp.column(column).isin(*sorted(days))
    return found.sql(dialect=dialect, identify=True)


class _Section:
    """The check of one section."""

    def __init__(self, report: Report, name: str) -> None:
        self._report = report
        self._name = name
        self._columns = {column.lower() for column in report.source.columns()}
        self._days = {"day", report.source.day.lower()}

    def checked(self) -> exp.Query:
        try:
            trees = parse(self._report.sections[self._name], dialect="duckdb")
        except SqlglotError as error:
            raise QueryRefused(f"{self._where(None)}: {reason(error)}") from error
        if len(trees) != 1 or not isinstance(trees[0], (exp.Select, exp.Union)):
            raise QueryRefused(
                f"{self._where(None)} is not one query",
                hint="SELECT day, ... GROUP BY day",
            )
        query = trees[0]
        self._tables = {self._report.source.name.lower()}
        self._tables |= {each.alias.lower() for each in query.find_all(exp.CTE)}
        for node in query.walk():
            if type(node) not in ALLOWED:
                default = "what may be used is in docs/reports.md"
                self._refuse(node, "is not what engines answer alike", _instead(node, default))
            for kind, rule in self._rules():
                if isinstance(node, kind):
                    rule(node)
        if "day" not in query.named_selects:
            self._refuse(query, "has no column `day`", "SELECT day, ... GROUP BY day")
        self._types(query)
        return query

    def _types(self, query: exp.Query) -> None:
        """Refuse texts where a number or a date is needed."""
        source = self._report.source
        columns = {name: COLUMNS[kind] for name, kind in source.columns().items()}
        schema: dict[str, object] = {source.name: columns}
        try:
            typed = annotate_types(
                qualify(
                    query.copy(), schema=schema, dialect="duckdb", validate_qualify_columns=False
                ),
                schema=schema,
                dialect="duckdb",
            )
        except SqlglotError as error:
            raise QueryRefused(f"{self._where(query)}: {reason(error)}") from error
        for node in typed.walk():
            if isinstance(node, COMPARED):
                kinds = [each.type for each in node.iter_expressions() if each.type is not None]
                texts = [kind.is_type(*exp.DataType.TEXT_TYPES) for kind in kinds]
                if any(texts) and any(kind.is_type(*exp.DataType.NUMERIC_TYPES) for kind in kinds):
                    self._refuse(node, "sets text beside numbers", "'1000' for text, 1000 without")
            elif isinstance(node, exp.Cast) and not node.is_type(*exp.DataType.TEXT_TYPES):
                self._read(node)

    def _read(self, node: exp.Cast) -> None:
        inner = node.this
        if inner.type is None or not inner.type.is_type(*exp.DataType.TEXT_TYPES):
            return
        if not node.is_type(exp.DataType.Type.DATE):
            self._refuse(node, "reads a number from text", "an int in the event")
        elif not (self._is_day(inner) or _is_iso_date(inner)):
            self._refuse(node, "reads a date from text", "a date in the event, or '2026-01-31'")

    def _rules(self) -> Iterator[tuple[type[exp.Expr], Callable[[exp.Expr], None]]]:
        yield exp.Select, self._select
        yield exp.Union, self._union
        yield exp.With, self._with
        yield exp.Table, self._table
        yield exp.TableAlias, self._table_alias
        yield exp.Subquery, self._subquery
        yield exp.Star, self._star
        yield exp.Left, self._left
        yield exp.Alias, self._alias
        yield exp.Literal, self._literal
        yield exp.Cast, self._cast
        yield exp.Window, self._window
        yield exp.Having, self._grouped
        yield exp.AggFunc, self._aggregate

    def _select(self, node: exp.Expr) -> None:
        names: set[str] = set()
        for column in node.expressions:
            if not isinstance(column, (exp.Column, exp.Alias, exp.Star)):
                self._refuse(column, "has no name", "give it one: ... AS name")
            name = column.alias_or_name.lower()
            if name in names:
                self._refuse(column, "has a name that is taken", "give it another: ... AS name")
            names.add(name)
        if node.args.get("group"):
            self._grouped(node)

    def _union(self, node: exp.Expr) -> None:
        assert isinstance(node, exp.Union)
        sides = [[name.lower() for name in side.named_selects] for side in (node.left, node.right)]
        if node.args.get("by_name") or sides[0] != sides[1]:
            self._refuse(node, "joins other columns", "name the same columns in the same order")

    def _with(self, node: exp.Expr) -> None:
        if node.args.get("recursive"):
            self._refuse(node, "is recursive", "a query over the rows of each day")

    def _table(self, node: exp.Expr) -> None:
        if node.name.lower() not in self._tables or node.args.get("db"):
            self._refuse(
                node, "is not the report's source", f"read from {self._report.source.name}"
            )

    def _table_alias(self, node: exp.Expr) -> None:
        if node.args.get("columns"):
            self._refuse(node, "names columns anew", "name them inside: ... AS name")

    def _subquery(self, node: exp.Expr) -> None:
        if not isinstance(node.parent, (exp.From, exp.Union)):
            self._refuse(node, "looks at other rows than its day's", "a subquery after FROM")

    def _star(self, node: exp.Expr) -> None:
        if not isinstance(node.parent, exp.Count):
            self._refuse(node, "has columns in an order of the engine's", "name the columns")

    def _left(self, node: exp.Expr) -> None:
        number = node.expression
        if not isinstance(number, exp.Literal) or number.is_string:
            self._refuse(node, "counts from the end if it is negative", "left(text, 2)")

    def _alias(self, node: exp.Expr) -> None:
        assert isinstance(node, exp.Alias)
        given, inner = node.alias.lower(), node.this
        name = inner.name.lower() if isinstance(inner, exp.Column) else None
        if given in self._days and name not in self._days:
            self._refuse(node, "is not the day of the rows", "give it another name")
        if given in self._columns and name != given:
            select = node.find_ancestor(exp.Select)
            inside = set(map(id, node.find_all(exp.Column)))
            for column in select.find_all(exp.Column) if select else ():
                if column.name.lower() == given and id(column) not in inside:
                    self._refuse(node, "may mean two things here", "give it another name")

    def _literal(self, node: exp.Expr) -> None:
        if not node.is_string and not node.name.isdigit():
            self._refuse(node, "is not a whole number", "minor units: cents, not euros")

    def _cast(self, node: exp.Expr) -> None:
        assert isinstance(node, exp.Cast)
        if node.to.this not in CASTS or node.to.expressions or node.args.get("format"):
            self._refuse(node, "is cast to another type", f"one of {', '.join(CASTS.values())}")

    def _window(self, node: exp.Expr) -> None:
        if not any(map(self._is_day, node.args.get("partition_by") or [])):
            self._refuse(node, "looks at other days", "OVER (PARTITION BY day ...)")

    def _aggregate(self, node: exp.Expr) -> None:
        parent = node.parent.parent if isinstance(node.parent, exp.Filter) else node.parent
        if not isinstance(parent, exp.Window):
            self._grouped(node)

    def _grouped(self, node: exp.Expr) -> None:
        select = node if isinstance(node, exp.Select) else node.find_ancestor(exp.Select)
        group = select.args.get("group") if select else None
        if group is None or not any(map(self._is_day, group.expressions)):
            self._refuse(node, "is taken over more than a day", "GROUP BY day, ...")

    def _is_day(self, node: exp.Expr) -> bool:
        return isinstance(node, exp.Column) and node.name.lower() in self._days

    def _refuse(self, node: exp.Expr, why: str, instead: str) -> None:
        found = " ".join(node.sql(dialect="duckdb", comments=False).split())
        found = found if len(found) <= SHOWN else f"{found[:SHOWN]}..."
        raise QueryRefused(f"{self._where(node)}: `{found}` {why}", hint=instead)

    def _where(self, node: exp.Expr | None) -> str:
        line = next((each.meta["line"] for each in _near(node) if "line" in each.meta), None)
        place = f"report {self._report.name}, section {self._name}"
        return place if line is None else f"{place}, line {line}"


def _is_iso_date(node: exp.Expr) -> bool:
    try:
        return node.is_string and date.fromisoformat(node.name).isoformat() == node.name
    except ValueError:
        return False


def _instead(node: exp.Expr, default: str) -> str:
    return next((hint for kind, hint in INSTEAD.items() if isinstance(node, kind)), default)


def _near(node: exp.Expr | None) -> Iterator[exp.Expr]:
    """A node, its descendants, and its ancestors: the parser records lines for names only."""
    while node is not None:
        yield from node.walk()
        node = node.parent
