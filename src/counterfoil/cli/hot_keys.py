"""`counterfoil events hot-keys`: the keys that slow a parallel pipeline down."""

from pathlib import Path

from counterfoil.cli.options import Folder, Json, State, state_folder


def hot_keys(path: Folder = Path(), *, state: State = None, as_json: Json = False) -> None:
    """Show the hot keys of each parallel pipeline: share of events, and how many wait.

    Example: counterfoil events hot-keys examples/shop
    """
    from contextlib import closing  # noqa: PLC0415

    from rich.text import Text  # noqa: PLC0415

    from counterfoil.application import StateFolder  # noqa: PLC0415
    from counterfoil.cli.inspection import application_and_events  # noqa: PLC0415
    from counterfoil.cli.output import out, print_table, write_json  # noqa: PLC0415
    from counterfoil.cli.times import time_text  # noqa: PLC0415
    from counterfoil.events import lag  # noqa: PLC0415
    from counterfoil.supervisor import hot_keys  # noqa: PLC0415
    from counterfoil.supervisor.host import now_us  # noqa: PLC0415

    folder = state_folder(path, state)
    application, events = application_and_events(path, folder)
    with closing(events.pipelines()) as store:
        lags = lag(events.log(), store)
    found = hot_keys.read(StateFolder(folder), application.parallels, lags, now_us())
    if as_json:
        write_json(found)
        return
    if not found:
        out.print("no parallel pipelines")
    for each in found:
        since = "nothing told yet" if each.at_us is None else f"told {time_text(each.at_us)} UTC"
        words = f"{each.behind:,} behind, {each.held:,} in memory, {since}"
        out.print(Text.assemble((each.pipeline, "bold"), f"  {words}"), highlight=False)
        if each.hot_keys:
            print_table(
                ("key", "share", "at least", "waiting"),
                [
                    (
                        hot.key,
                        f"{hot.share:.1%}",
                        f"{max(hot.share - hot.error, 0):.1%}",
                        hot.waiting,
                    )
                    for hot in each.hot_keys
                ],
                right=("share", "at least"),
            )
