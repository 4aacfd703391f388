"""`counterfoil events hot-keys`: which keys hold back a parallel pipeline."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

State = Annotated[Path | None, Parameter(help="The state folder; default PATH/.counterfoil.")]
Json = Annotated[bool, Parameter("--json", help="Write JSON.")]


def hot_keys(path: Path = Path(), *, state: State = None, as_json: Json = False) -> None:
    """Show the hot keys of each parallel pipeline: share of the events, and how many wait.

    Examples: counterfoil events hot-keys examples/shop
    """
    from contextlib import closing  # noqa: PLC0415

    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    from counterfoil.application import StateFolder  # noqa: PLC0415
    from counterfoil.cli.inspection import application_and_events, write_json  # noqa: PLC0415
    from counterfoil.cli.times import time_text  # noqa: PLC0415
    from counterfoil.events import lag  # noqa: PLC0415
    from counterfoil.supervisor import hot_keys  # noqa: PLC0415
    from counterfoil.supervisor.host import now_us  # noqa: PLC0415

    folder = state or path / ".counterfoil"
    application, events = application_and_events(path, folder)
    with closing(events.pipelines()) as store:
        lags = lag(events.log(), store)
    found = hot_keys.read(StateFolder(folder), application.parallels, lags, now_us())
    if as_json:
        write_json(found)
        return
    out = Console()
    if not found:
        out.print("no parallel pipelines")
    for each in found:
        since = "nothing told yet" if each.at_us is None else f"told {time_text(each.at_us)} UTC"
        words = f"{each.behind:,} behind, {each.held:,} in memory, {since}"
        out.print(f"[bold]{each.pipeline}[/]  {words}", highlight=False)
        table = Table("key", "share", "at least", "waiting", box=None)
        for hot in each.hot_keys:
            at_least = f"{max(hot.share - hot.error, 0):.1%}"
            table.add_row(hot.key, f"{hot.share:.1%}", at_least, f"{hot.waiting:,}")
        if each.hot_keys:
            out.print(table)
