"""Prints sagas and their timelines."""

from contextlib import closing

import msgspec
from rich.text import Text

from counterfoil.cli.output import out, print_table, write_json
from counterfoil.cli.times import time_text
from counterfoil.events import Events, Sagas, SagaStatus, SagaView


def print_sagas(
    events: Events, name: str | None, status: SagaStatus | None, limit: int, *, as_json: bool
) -> None:
    """Print a row for each saga."""
    with closing(events.pipelines()) as store:
        found = Sagas(store).newest(saga=name, status=status, limit=limit)
    if as_json:
        write_json([_document(each) for each in found])
        return
    if not found:
        out.print("none that fit" if name or status else "no sagas")
        return
    print_table(
        ("id", "saga", "style", "status", "step", "begun (UTC)", "error"),
        [
            (
                str(each.id),
                each.saga,
                each.style,
                each.status,
                each.step,
                time_text(each.started_us),
                each.error,
            )
            for each in found
        ],
    )


def print_saga(events: Events, number: int, *, as_json: bool) -> None:
    """Print the timelines of the sagas that one event began."""
    with closing(events.pipelines()) as store:
        found = Sagas(store).show(number)
    if as_json:
        write_json([_document(each) for each in found])
        return
    for each in found:
        title = f"{each.saga} {each.id} ({each.style}): "
        out.print(Text.assemble(title, (each.status, "bold")), highlight=False)
        print_table(
            ("time (UTC)", "step", "", "outcome", "attempt", "error"),
            [
                (
                    time_text(line.at_us),
                    line.step,
                    line.direction,
                    line.outcome,
                    line.attempt,
                    line.error,
                )
                for line in each.timeline
            ],
        )


def _document(saga: SagaView) -> dict[str, object]:
    """A saga for programs: its id is a string, since 64 bits don't fit every reader's number."""
    return {**msgspec.structs.asdict(saga), "id": str(saga.id)}
