"""Declarations of tables and reports; imports no engine."""

import datetime
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

import msgspec

from counterfoil.reports.errors import ReportsError, RowRefused

if TYPE_CHECKING:
    import pyarrow

T = TypeVar("T")
ARROW_TYPES: Final = MappingProxyType(
    {int: "int64", str: "string", bool: "bool", datetime.date: "date32"}
)
_BEYOND: Final = 1 << 63
"""The smallest integer above the range of int64."""
_SHOWN: Final = 40
"""Characters of an invalid day in an error: more than any date has."""


@dataclass(frozen=True)
class Table(Generic[T]):
    """A lake table with a row per event, partitioned by the ISO date in `day`."""

    name: str
    row: type[T]
    day: str = field(default="day", kw_only=True)

    def columns(self) -> dict[str, str]:
        """Column names and Arrow types.

        Raises:
            ReportsError: a field's type has no column type, the day isn't text, or two names
                differ by case only, so that SQL takes them for the same.
        """
        hints = typing.get_type_hints(self.row)
        if len({name.lower() for name in hints}) < len(hints):
            raise ReportsError(
                f"table {self.name}: two of the columns {', '.join(hints)} differ by case alone",
                hint="SQL takes them for one: give one another name",
            )
        columns = {name: _column_type(hint) for name, hint in hints.items()}
        for name, kind in columns.items():
            if not kind:
                shown = getattr(hints[name], "__name__", hints[name])
                raise ReportsError(
                    f"table {self.name}: column {name} has the type {shown}",
                    hint="use int (money in minor units), str, a Literal of texts, bool or date; "
                    "what else events hold can be emitted to a topic of its own for the lake",
                )
        if hints.get(self.day) is not str:
            raise ReportsError(f"table {self.name}: {self.day} must be a str such as 2026-01-31")
        return columns

    def check(self, row: T) -> None:
        """Check that a row fits: integers in JSON are unbounded, those of columns have 64 bits.

        The day is the row's partition, by which reports are computed and read. It must have one
        spelling only, not both 20260131 and 2026-01-31.

        Raises:
            RowRefused: a number is out of range, or the day is not an ISO date.
        """
        day = getattr(row, self.day)
        if not _is_iso_date(day):
            raise RowRefused(
                f"table {self.name}: {day[:_SHOWN]!r} in {self.day} is no ISO date",
                hint="write days as 2026-01-31",
            )
        for name in self._numbers:
            if not -_BEYOND <= getattr(row, name) < _BEYOND:
                raise RowRefused(
                    f"table {self.name}: column {name} holds 64 bits, and the event has more",
                    hint=f"numbers are from {-_BEYOND} to {_BEYOND - 1}",
                )

    @cached_property
    def _numbers(self) -> tuple[str, ...]:
        return tuple(name for name, kind in self.columns().items() if kind == "int64")

    def schema(self) -> "pyarrow.Schema":
        """The columns as an Arrow schema."""
        import pyarrow  # noqa: PLC0415 - heavy

        types = {
            "int64": pyarrow.int64(),
            "string": pyarrow.string(),
            "bool": pyarrow.bool_(),
            "date32": pyarrow.date32(),
        }
        return pyarrow.schema([(name, types[kind]) for name, kind in self.columns().items()])


def _column_type(hint: Any) -> str:
    """The Arrow type of a field's annotation; empty if there is none."""
    if typing.get_origin(hint) is typing.Literal:
        texts = all(isinstance(value, str) for value in typing.get_args(hint))
        return ARROW_TYPES[str] if texts else ""
    return ARROW_TYPES.get(hint, "") if isinstance(hint, type) else ""


def _is_iso_date(text: str) -> bool:
    """Whether it is a valid date as YYYY-MM-DD (ISO 8601, extended)."""
    try:
        return datetime.date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


@dataclass(frozen=True)
class Report:
    """A daily report: a SQL query per section, with a column `day`, over the table's name.

    The SQL is the subset of DuckDB's on which all engines agree (`counterfoil.reports.query`).
    Columns in `amounts` are minor units, and are shown with two decimals.
    """

    name: str
    source: Table[Any]
    sections: Mapping[str, str]
    title: str = field(kw_only=True)
    amounts: tuple[str, ...] = field(default=(), kw_only=True)


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows read from one partition of a source, and the offset after the last one."""

    rows: Sequence[Any]
    next_offset: int
    start: int = field(kw_only=True)
    """The offset they were read from, given by `LakeWriter.positions`."""


class Found(msgspec.Struct, frozen=True):
    """A row's file, and the commit that added the file to the table."""

    file: str
    version: int
    committed_us: int


class Run(msgspec.Struct, frozen=True):
    """The result of a report's run: the source version, and why each day was published."""

    version: int
    days: dict[str, str]
