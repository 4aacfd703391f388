"""`counterfoil events tasks`: what task queues hold."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

State = Annotated[Path | None, Parameter(help="The state folder; default PATH/.counterfoil.")]
Json = Annotated[bool, Parameter("--json", help="Write JSON.")]


def tasks(path: Path = Path(), *, state: State = None, as_json: Json = False) -> None:
    """Show what each task queue holds: waiting by priority, delayed, at work, given up.

    Examples: counterfoil events tasks examples/shop
    """
    from contextlib import closing  # noqa: PLC0415

    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    from counterfoil.cli.inspection import application_and_events, write_json  # noqa: PLC0415
    from counterfoil.cli.times import duration_text  # noqa: PLC0415
    from counterfoil.events import task_counts  # noqa: PLC0415
    from counterfoil.supervisor.host import now_us  # noqa: PLC0415

    now = now_us()
    application, events = application_and_events(path, state or path / ".counterfoil")
    with closing(events.pipelines()) as store:
        found = task_counts(store, now, application.queues)
    if as_json:
        write_json(found)
        return
    out = Console()
    if not found:
        out.print("no task queues")
        return
    priorities = list(found[0].by_priority)
    table = Table("queue", "waiting", *priorities, "delayed", "at work", "dead", "oldest", box=None)
    for each in found:
        waits = "-" if each.oldest_us is None else duration_text((now - each.oldest_us) / 1e6)
        levels = [each.by_priority[name] for name in priorities]
        counts = (each.waiting, *levels, each.delayed, each.at_work, each.dead)
        table.add_row(each.queue, *map(str, counts), waits)
    out.print(table)
    if any(each.dead for each in found):
        out.print("see `counterfoil events dlq list --status waiting`", style="dim")
