"""`counterfoil reports` and `report`: what was published, and which days were corrected."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from cyclopts.validators import Number

from counterfoil.cli.options import Folder, Json, State, state_folder
from counterfoil.cli.verdict import major

if TYPE_CHECKING:
    from counterfoil.reports import Report

DAYS = 7


def reports(path: Folder = Path(), *, state: State = None, as_json: Json = False) -> None:
    """List the reports: publication time, table version, days, and events left out.

    Example: counterfoil reports examples/shop
    """
    from counterfoil.cli.output import out, print_table, styled, write_json  # noqa: PLC0415
    from counterfoil.cli.times import time_text  # noqa: PLC0415

    found = [document for _, document in _documents(path, state).values()]
    if as_json:
        write_json([_summary(each) for each in found])
        return
    if not found:
        out.print("no reports")
        return
    print_table(
        ("report", "title", "version", "published (UTC)", "days", "corrected", "left out"),
        [
            (
                each["name"],
                each["title"],
                each["version"] if each["version"] >= 0 else "",
                time_text(each["published_us"]) if each["version"] >= 0 else "not yet",
                len(each["reasons"]),
                len(_corrected(each)),
                styled(f"{each['unread']:,}", "red") if each["unread"] else 0,
            )
            for each in found
        ],
        right=("version", "left out"),
    )


def report(
    name: str,
    path: Folder = Path(),
    *,
    section: str | None = None,
    days: Annotated[int, Parameter(validator=Number(gte=1))] = DAYS,
    state: State = None,
    as_json: Json = False,
) -> None:
    """Show the newest days of a report, and which of them were corrected.

    With --json amounts are integers in minor units. The CSV files have all rows.

    Examples: counterfoil report daily examples/shop
              counterfoil report daily examples/shop --section totals --days 31 --json

    Parameters
    ----------
    name
        Its name, as `counterfoil reports` shows it.
    section
        Only this section.
    days
        The number of days of each section.
    """
    from counterfoil.cli.output import out, print_table, styled, write_json  # noqa: PLC0415
    from counterfoil.errors import CounterfoilError  # noqa: PLC0415

    known = _documents(path, state)
    if name not in known:
        raise CounterfoilError(f"no report {name!r}", hint=f"one of {', '.join(known) or 'none'}")
    declared, document = known[name]
    if section is not None and section not in declared.sections:
        raise CounterfoilError(
            f"{name} has no section {section!r}", hint=f"one of {', '.join(declared.sections)}"
        )
    shown = {
        title: (each["columns"], _newest(each, days))
        for title, each in document["sections"].items()
        if section in (None, title)
    }
    if as_json:
        sections = {name: {"columns": c, "rows": rows} for name, (c, rows) in shown.items()}
        write_json({**_summary(document), "amounts": declared.amounts, "sections": sections})
        return
    if not shown:
        out.print("nothing was published yet")
    corrected = _corrected(document)
    for title, (columns, rows) in shown.items():
        out.print(styled(title, "bold"))
        print_table(
            columns,
            [
                [
                    _cell(cell, column in declared.amounts)
                    for column, cell in zip(columns, row, strict=True)
                ]
                for row in rows
            ],
            right=declared.amounts,
        )
        for day in sorted({row[columns.index("day")] for row in rows} & corrected.keys()):
            out.print(f"{day}: {corrected[day]}", highlight=False, markup=False)


def _cell(value: Any, is_amount: bool) -> str | int:
    if value is None:
        return ""
    if type(value) is not int:
        return str(value)
    return major(value) if is_amount else value


def _documents(path: Path, state: Path | None) -> "dict[str, tuple[Report, dict[str, Any]]]":
    """Each declared report by name, with what was published of it last."""
    from counterfoil.application import StateFolder, load, load_application  # noqa: PLC0415
    from counterfoil.reports import published  # noqa: PLC0415

    files = StateFolder(state_folder(path, state))
    application = load_application(path.resolve(), load(path).application.module)
    return {
        name: (each, published(each, files.reports / name))
        for name, each in application.reports.items()
    }


def _summary(document: dict[str, Any]) -> dict[str, Any]:
    names = ("name", "title", "version", "published_us", "unread")
    return {
        **{name: document[name] for name in names},
        "days": len(document["reasons"]),
        "corrected": _corrected(document),
    }


def _corrected(document: dict[str, Any]) -> dict[str, str]:
    """Days that were published again after they were over, with when and why."""
    return {day: why for day, why in document["reasons"].items() if why != "new"}


def _newest(section: dict[str, Any], days: int) -> list[list[Any]]:
    """The rows of the newest days that have some."""
    with_rows = [day for day in sorted(section["days"]) if section["days"][day]]
    return [row for day in with_rows[-days:] for row in section["days"][day]]
