"""How sagas and their timelines are told."""

from contextlib import closing

from rich.console import Console
from rich.table import Table

from counterfoil.cli.inspection import write_json
from counterfoil.cli.times import time_text
from counterfoil.events import Events, Sagas

out = Console()


def print_sagas(
    events: Events, name: str | None, status: str | None, limit: int, *, as_json: bool
) -> None:
    """Print a row for each saga."""
    with closing(events.pipelines()) as store:
        found = Sagas(store).newest(saga=name, status=status, limit=limit)
    if as_json:
        write_json(found)
        return
    if not found:
        out.print("no sagas")
        return
    table = Table("id", "saga", "style", "status", "step", "begun", "error", box=None)
    for each in found:
        begun = time_text(each.started_us)
        row = (str(each.id), each.saga, each.style, each.status, each.step, begun, each.error)
        table.add_row(*row)
    out.print(table)


def print_saga(events: Events, number: int, *, as_json: bool) -> None:
    """Print the timelines of the sagas that one event began."""
    with closing(events.pipelines()) as store:
        found = Sagas(store).show(number)
    if as_json:
        write_json(found)
        return
    for each in found:
        out.print(f"{each.saga} {each.id} ({each.style}): [bold]{each.status}[/]", highlight=False)
        table = Table("time", "step", "", "outcome", "attempt", "error", box=None)
        for line in each.timeline:
            at = time_text(line.at_us)
            row = (at, line.step, line.direction, line.outcome, str(line.attempt), line.error)
            table.add_row(*row)
        out.print(table)
