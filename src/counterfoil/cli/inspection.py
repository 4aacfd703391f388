"""Looks into the event log for the `events` commands."""

import sys
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from counterfoil.application import StateFolder, load, load_application
from counterfoil.events import DeadLetters, Events, lag
from counterfoil.supervisor import last_addresses, open_events
from counterfoil.supervisor.host import now_us

out = Console()


def events_of(folder: Path, state: Path) -> Events:
    """The events of the application in `folder`, as they were last run in `state`.

    Raises:
        CounterfoilError: it never ran there.
    """
    files = StateFolder(state)
    addresses = last_addresses(files)
    configuration = load(folder, engines=addresses.chosen)
    application = load_application(folder.resolve(), configuration.application.module)
    return open_events(application.name, configuration, files, addresses)


def print_lag(events: Events, *, as_json: bool) -> None:
    """Print a row for each consumer and partition."""
    rows = lag(events.log(), events.pipelines())
    if as_json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(rows)).decode() + "\n")
        return
    table = Table("consumer", "topic", "partition", "committed", "end", "lag", box=None)
    for row in rows:
        table.add_row(
            row.group,
            row.topic,
            str(row.partition),
            str(row.committed),
            str(row.end),
            str(row.lag),
        )
    out.print(table)


def print_dead_letters(events: Events, pipeline: str | None, limit: int, *, as_json: bool) -> None:
    """Print a row for each dead letter."""
    letters = DeadLetters(events.pipelines()).list(pipeline=pipeline, limit=limit)
    if as_json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(letters)).decode() + "\n")
        return
    if not letters:
        out.print("no dead letters")
        return
    table = Table("id", "pipeline", "source", "error", "replayed", box=None)
    for letter in letters:
        table.add_row(
            str(letter.id),
            letter.pipeline,
            f"{letter.topic}/{letter.partition}@{letter.offset}",
            letter.error,
            "yes" if letter.replayed_us else "no",
        )
    out.print(table)


def print_dead_letter(events: Events, number: int) -> None:
    """Print all that is known of one dead letter, as JSON."""
    letter = DeadLetters(events.pipelines()).show(number)
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(letter)).decode() + "\n")


def replay_dead_letter(events: Events, number: int) -> None:
    """Replay one dead letter."""
    DeadLetters(events.pipelines()).replay(number, now_us())
    out.print(f"dead letter {number} is in its pipeline's retry queue")
