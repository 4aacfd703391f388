"""`counterfoil events tasks`: shows what task queues hold."""

from pathlib import Path

from counterfoil.cli.options import Folder, Json, State, state_folder


def tasks(path: Folder = Path(), *, state: State = None, as_json: Json = False) -> None:
    """Show the tasks of each queue: waiting by priority, delayed, running, given up.

    Example: counterfoil events tasks examples/shop
    """
    from contextlib import closing  # noqa: PLC0415

    from counterfoil.cli.inspection import application_and_events  # noqa: PLC0415
    from counterfoil.cli.output import out, print_table, write_json  # noqa: PLC0415
    from counterfoil.cli.times import duration_text  # noqa: PLC0415
    from counterfoil.events import task_counts  # noqa: PLC0415
    from counterfoil.supervisor.host import now_us  # noqa: PLC0415

    now = now_us()
    application, events = application_and_events(path, state_folder(path, state))
    with closing(events.pipelines()) as store:
        found = task_counts(store, now, application.queues)
    if as_json:
        write_json(found)
        return
    if not found:
        out.print("no task queues")
        return
    priorities = list(found[0].by_priority)
    print_table(
        ("queue", "waiting", *priorities, "delayed", "at work", "dead", "oldest"),
        [
            (
                each.queue,
                each.waiting,
                *(each.by_priority[name] for name in priorities),
                each.delayed,
                each.at_work,
                each.dead,
                "-" if each.oldest_us is None else duration_text((now - each.oldest_us) / 1e6),
            )
            for each in found
        ],
        right=("oldest",),
    )
    if any(each.dead for each in found):
        out.print("see `counterfoil events dlq list --status waiting`", style="dim")
