"""Looks into the event log for the `events` commands."""

import sys
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from counterfoil.application import Application, StateFolder, load, load_application
from counterfoil.events import Events, lag
from counterfoil.supervisor import last_addresses, open_events

out = Console()


def events_of(folder: Path, state: Path) -> Events:
    """The events of the application in `folder`, as they were last run in `state`.

    Raises:
        CounterfoilError: it never ran there.
    """
    return application_and_events(folder, state)[1]


def application_and_events(folder: Path, state: Path) -> tuple[Application, Events]:
    """The application in `folder`, and its events as they were last run in `state`.

    Raises:
        CounterfoilError: it never ran there.
    """
    files = StateFolder(state)
    addresses = last_addresses(files)
    configuration = load(folder, engines=addresses.chosen)
    application = load_application(folder.resolve(), configuration.application.module)
    return application, open_events(application.name, configuration, files, addresses)


def write_json(document: object) -> None:
    """Write a document to standard output."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(document)).decode() + "\n")


def print_lag(events: Events, *, as_json: bool) -> None:
    """Print a row for each consumer and partition."""
    rows = lag(events.log(), events.pipelines())
    if as_json:
        write_json(rows)
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
