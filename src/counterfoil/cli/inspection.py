"""Looks into the event log for the `events` commands."""

import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from counterfoil.application import Application, StateFolder, load, load_application
from counterfoil.cli.times import duration_text, time_text
from counterfoil.events import (
    UNFINISHED,
    DeadLetters,
    Events,
    Hanging,
    StoreUnavailable,
    Transaction,
    lag,
)
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


def waiting_letters(events: Events) -> list[dict[str, Any]] | None:
    """The pipelines with dead letters that nobody has decided on; None if they can't be asked."""
    try:
        with closing(events.pipelines()) as store:
            return msgspec.to_builtins(DeadLetters(store).waiting())
    except StoreUnavailable:
        return None


def print_waiting(waiting: list[dict[str, Any]] | None) -> None:
    """Print a line for each pipeline with dead letters."""
    if waiting is None:
        out.print("[yellow]dead letters[/]  not known: their database does not answer")
    for each in waiting or ():
        since = time_text(each["newest_us"])
        words = f"{each['letters']} of {each['pipeline']} wait for a decision, the last since"
        out.print(f"[red]dead letters[/]  {words} {since} UTC", highlight=False)
    if waiting:
        out.print("see `counterfoil events dlq list --status waiting`", style="dim")


def print_lag(events: Events, *, as_json: bool) -> None:
    """Print a row for each consumer and partition."""
    with closing(events.pipelines()) as store:
        rows = lag(events.log(), store)
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
    print_waiting(waiting_letters(events))


def print_transactions(transactions: Sequence[Transaction], *, as_json: bool) -> None:
    """Print a row for each transaction."""
    if as_json:
        write_json(transactions)
        return
    if not transactions:
        out.print("no transactions: no source has sent anything, and no SQLite file is locked")
        return
    table = Table("id", "state", "holder", "age", "timeout", "partitions", box=None)
    for each in transactions:
        table.add_row(
            each.id,
            f"[yellow]{each.state}[/]" if each.state in UNFINISHED else each.state,
            each.holder,
            "" if each.age_seconds is None else duration_text(each.age_seconds),
            "" if each.timeout_seconds is None else duration_text(each.timeout_seconds),
            ", ".join(each.partitions),
        )
    out.print(table, highlight=False)


def print_hanging(hanging: Sequence[Hanging], *, as_json: bool) -> None:
    """Print a row for each transaction that hangs."""
    if as_json:
        write_json(hanging)
        return
    if not hanging:
        out.print("no transaction hangs")
        return
    table = Table("partition", "since offset", "producer", "epoch", "idle", box=None)
    for each in hanging:
        table.add_row(
            each.partition,
            str(each.first_offset),
            str(each.producer_id),
            str(each.producer_epoch),
            duration_text(each.idle_seconds),
        )
    out.print(table, highlight=False)
