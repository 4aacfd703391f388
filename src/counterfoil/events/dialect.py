"""Translates a service's SQL to PostgreSQL's dialect.

What can't be translated faithfully is rejected, with a hint at what to write instead.
"""

import re
from functools import lru_cache
from typing import Final

from sqlglot import exp, parse_one
from sqlglot.errors import SqlglotError

from counterfoil.events.errors import EventsError
from counterfoil.sql_errors import reason

STATEMENTS: Final = 1_024
"""Size of the cache of translations; a service has some dozens of statements."""
_STRICT: Final = re.compile(r"\)\s*((STRICT|WITHOUT\s+ROWID)\s*,?\s*)+;?\s*$", re.IGNORECASE)
_PARAMETER: Final = "\x00"


@lru_cache(STATEMENTS)
def to_postgres(sql: str) -> str:
    """Translate one statement, with `%s` for each `?`.

    Raises:
        EventsError: it is not SQL, or has no equivalent in PostgreSQL.
    """
    try:
        tree = parse_one(_STRICT.sub(")", sql), read="sqlite")
        if isinstance(tree, exp.Command):
            raise EventsError(f"SQL that PostgreSQL has not: {sql.strip()[:80]}")
        return _parameters(tree.transform(_node).sql("postgres"))
    except SqlglotError as error:
        raise EventsError(f"not SQL: {reason(error)}: {sql.strip()[:80]}") from error


def _node(node: exp.Expr) -> exp.Expr:
    match node:
        # SQLite's integers have 64 bits, PostgreSQL's INTEGER has 32.
        case exp.DataType(this=exp.DataType.Type.INT):
            return exp.DataType.build("bigint")
        case exp.Placeholder():
            return exp.Var(this=_PARAMETER)
        case exp.OnConflict():
            keys: list[exp.Expr] = node.args.get("conflict_keys") or []
            bare = [key.this if isinstance(key, exp.Ordered) else key for key in keys]
            node.set("conflict_keys", bare)
        case exp.Insert() if node.args.get("alternative"):
            raise EventsError(
                f"INSERT OR {node.args['alternative']} is SQLite's alone",
                hint="write INSERT ... ON CONFLICT ... DO NOTHING, or DO UPDATE SET",
            )
        case _:
            pass
    return node


def _parameters(sql: str) -> str:
    return sql.replace("%", "%%").replace(_PARAMETER, "%s")
