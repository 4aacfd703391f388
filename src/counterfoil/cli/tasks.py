"""`counterfoil events tasks`: what task queues hold."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

State = Annotated[Path | None, Parameter(help="The state folder; default PATH/.counterfoil.")]
Json = Annotated[bool, Parameter("--json", help="Write JSON.")]


def tasks(path: Path = Path(), *, state: State = None, as_json: Json = False) -> None:
    """Show what each task queue holds: waiting, delayed, at work, and how long the oldest waits.

    Examples: counterfoil events tasks examples/shop
    """
    from contextlib import closing  # noqa: PLC0415

    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    from counterfoil.cli.inspection import events_of, write_json  # noqa: PLC0415
    from counterfoil.cli.times import duration_text  # noqa: PLC0415
    from counterfoil.events import task_counts  # noqa: PLC0415
    from counterfoil.supervisor.host import now_us  # noqa: PLC0415

    now = now_us()
    with closing(events_of(path, state or path / ".counterfoil").pipelines()) as store:
        found = task_counts(store.database, now)
    if as_json:
        write_json(found)
        return
    out = Console()
    if not found:
        out.print("no tasks")
        return
    table = Table("queue", "waiting", "delayed", "at work", "oldest waits", box=None)
    for each in found:
        waits = "-" if each.oldest_us is None else duration_text((now - each.oldest_us) / 1e6)
        table.add_row(each.queue, str(each.waiting), str(each.delayed), str(each.at_work), waits)
    out.print(table)
