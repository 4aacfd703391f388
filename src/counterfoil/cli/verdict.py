"""Prints verdicts and traces, for people and for programs."""

import sys
from typing import TYPE_CHECKING

from rich.markup import escape

from counterfoil.cli.output import out, print_table, write_json

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from counterfoil.proof.prove import Verdict
    from counterfoil.proof.trace import Step


def major(amount: int) -> str:
    """Minor units as an exact amount with two decimals."""
    sign = "-" if amount < 0 else ""
    return f"{sign}{abs(amount) // 100:,}.{abs(amount) % 100:02}"


def print_report(folder: "Path", state: "Path") -> None:
    """Print the published report by month."""
    from counterfoil.application import StateFolder, load, load_application  # noqa: PLC0415
    from counterfoil.proof.reconcile import Sum, report_days  # noqa: PLC0415

    application = load_application(folder.resolve(), load(folder).application.module)
    counterfoils = application.counterfoils
    assert counterfoils is not None, "it was just proved"
    months: dict[str, Sum] = {}
    for day, found in sorted(report_days(counterfoils, StateFolder(state)).items()):
        month = months.get(day[:7], Sum(0, 0))
        months[day[:7]] = Sum(month.count + found.count, month.amount + found.amount)
    title = f"report {counterfoils.report.name}: {counterfoils.report.title}"
    out.print(title, highlight=False, markup=False)
    print_table(
        ("month", counterfoils.count, counterfoils.total),
        [(name, month.count, major(month.amount)) for name, month in months.items()],
        right=(counterfoils.total,),
    )


def print_verdict(verdict: "Verdict", *, as_json: bool) -> None:
    """Print the verdict, every sum beside the others, and the first differences."""
    if as_json:
        write_json(verdict)
        return
    print_table(
        ("step", "count", "amount"),
        [(name, each.count, major(each.amount)) for name, each in verdict.sums.items()],
        right=("amount",),
    )
    faults = ", ".join(f"{count} {kind}" for kind, count in sorted(verdict.faults.items()))
    where = ", ".join(f"{kind} {count}" for kind, count in sorted(verdict.faulted.items()))
    out.print(f"faults: {faults or 'none'}" + (f" ({where})" if where else ""), highlight=False)
    out.print(
        f"{verdict.sent:,} sent in {verdict.attempts:,} attempts, "
        f"{verdict.acknowledged:,} acknowledged; start {verdict.seconds['start']} s, "
        f"load {verdict.seconds['load']} s, drain {verdict.seconds['drain']} s; "
        f"p50 {verdict.latency_ms['p50']} ms, p99 {verdict.latency_ms['p99']} ms",
        highlight=False,
    )
    for outage in verdict.outages:
        recovery = outage.recovery_seconds
        out.print(
            f"{outage.engine} away for {outage.seconds:g} s: "
            + ("not recovered" if recovery is None else f"recovered {recovery} s after its return")
            + (f", {', '.join(outage.restarted)} restarted" if outage.restarted else ""),
            highlight=False,
        )
    if verdict.outages:
        refusals = verdict.refusals
        out.print(
            f"{refusals['number']:g} answers 503, {refusals['without_retry_after']:g} without "
            f"Retry-After, the slowest after {refusals['slowest_ms']} ms",
            highlight=False,
        )
    for each in verdict.differences[:10]:
        out.print(
            f"[red]{escape(each.what)}[/] in "
            + escape(f"{each.where}: {each.id} (expected {each.expected}, found {each.found})"),
            highlight=False,
        )
    if verdict.verdict == "holds":
        out.print("[bold green]holds[/]: accepted = posted = stored = reported, to the cent")
    else:
        out.print(f"[bold red]fails[/]: {verdict.difference_count:,} differences")


def print_trace(identity: str, steps: "Sequence[Step]", *, as_json: bool) -> None:
    """Print the way of one payment, a step a line."""
    if as_json:
        write_json(steps)
        return
    if not steps:
        sys.stderr.write(f"{identity}: nothing is known under this id or key\n")
        return
    print_table(
        ("step", "time (UTC)", "where", "what"),
        [(step.name, step.time, step.where, step.what) for step in steps],
    )
