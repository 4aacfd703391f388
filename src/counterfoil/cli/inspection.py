"""Looks into the event log for the `events` commands."""

import sys
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.live import Live
from rich.table import Table

from counterfoil.application import Application, StateFolder, load, load_application
from counterfoil.cli.times import duration_text, parse_time, time_text
from counterfoil.errors import CounterfoilError
from counterfoil.events import (
    UNFINISHED,
    DeadLetters,
    Events,
    Hanging,
    Lag,
    Progress,
    StoreUnavailable,
    Transaction,
    attach_schemas,
    lag,
    progress,
    read,
    readable,
    topics,
)
from counterfoil.events.shares import whole
from counterfoil.supervisor import last_addresses, open_events
from counterfoil.supervisor.host import now_us

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
    events = open_events(application.name, configuration, files, addresses)
    attach_schemas(application.all_topics(), events.registry)
    return application, events


def write_json(document: object) -> None:
    """Write a document to standard output."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(document)).decode() + "\n")


def waiting_letters(events: Events) -> list[dict[str, Any]] | None:
    """The pipelines with dead letters that nobody has decided on.

    None if their database can't be asked; why is written to standard error.
    """
    try:
        with closing(events.pipelines()) as store:
            return msgspec.to_builtins(DeadLetters(store).waiting())
    except StoreUnavailable as error:
        sys.stderr.write(f"dead letters are not known: {error}\n")
        return None


def print_waiting(waiting: list[dict[str, Any]] | None) -> None:
    """Print a line for each pipeline with dead letters."""
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
    out.print(_lag_table(rows))
    print_waiting(waiting_letters(events))


def forget_consumer(application: Application, events: Events, consumer: str) -> None:
    """Forget the positions of a consumer that is not declared.

    Raises:
        CounterfoilError: it is declared, or has no positions.
    """
    if whole(consumer) in application.consumers():
        raise CounterfoilError(
            f"{consumer!r} is declared, and would begin again",
            hint="take it out of the application, and stop it, before it is forgotten",
        )
    with closing(events.pipelines()) as store:
        forgotten = store.forget(consumer)
        known = sorted({whole(each[0]) for each in store.consumers()} - application.consumers())
    if not forgotten:
        hint = f"not declared, but known: {', '.join(known) or 'none'}"
        raise CounterfoilError(f"no consumer {consumer!r}", hint=hint)
    out.print(f"{consumer} is forgotten", highlight=False)


def watch_lag(events: Events, every: float, *, as_json: bool) -> None:
    """Print lag with rates, again and again, until Ctrl-C."""
    with closing(events.pipelines()) as store, suppress(KeyboardInterrupt):
        log, before, seen = events.log(), list[Lag](), time.monotonic()
        with Live(console=out, auto_refresh=False, transient=True) as live:
            while True:
                rows, now = lag(log, store), time.monotonic()
                found = progress(before, rows, max(now - seen, 0.001)) if before else []
                if as_json and found:
                    sys.stdout.write(msgspec.json.encode(found).decode() + "\n")
                    sys.stdout.flush()
                elif not as_json:
                    live.update(_progress_table(found) if found else _lag_table(rows), refresh=True)
                before, seen = rows, now
                time.sleep(every)


def print_topics(application: Application, events: Events, *, as_json: bool) -> None:
    """Print a row for each topic."""
    found = topics(events.log(), application.all_topics())
    if as_json:
        write_json(found)
        return
    table = Table("topic", "partitions", "records", "largest over mean", "ends", box=None)
    for each in found:
        ends = " ".join(f"{place.end:,}" for place in each.partitions)
        skew = f"{each.skew:.2f}" if each.records else ""
        table.add_row(each.name, str(len(each.partitions)), f"{each.records:,}", skew, ends)
    out.print(table, highlight=False)


def print_records(
    application: Application,
    events: Events,
    name: str,
    *,
    start: str,
    partition: int | None,
    limit: int,
    as_json: bool,
) -> None:
    """Print records of a topic, a line for each."""
    declared = {topic.name: topic for topic in application.all_topics()}
    if name not in declared:
        raise CounterfoilError(f"no topic {name!r}", hint=f"one of {', '.join(declared)}")
    topic, log = declared[name], events.log()
    numbers = range(topic.partitions) if partition is None else [partition]
    if partition is not None and not 0 <= partition < topic.partitions:
        raise CounterfoilError(
            f"{name} has no partition {partition}", hint=f"it has 0 to {topic.partitions - 1}"
        )
    if start.isdecimal():
        positions = dict.fromkeys(numbers, int(start))
    else:
        at = log.offsets_at(topic, parse_time(start, now_us()))
        positions = {number: at[number] for number in numbers if number in at}
    for record in islice(read(log, topic, positions), limit):
        if as_json:
            document = {**msgspec.structs.asdict(record), "value": readable(record.value, topic)}
            sys.stdout.write(msgspec.json.encode(document).decode() + "\n")
        else:
            place = f"{record.topic}/{record.partition}@{record.offset}"
            found = readable(record.value, topic)
            value = found if isinstance(found, str) else bytes(found).decode()
            line = f"{place}  {time_text(record.timestamp_us)}  {record.key}  {value}"
            out.print(line, highlight=False, markup=False, soft_wrap=True)


def _lag_table(rows: Sequence[Lag]) -> Table:
    table = Table("consumer", "topic", "partition", "committed", "end", "lag", box=None)
    for row in rows:
        numbers = (row.partition, row.committed, row.end, row.lag)
        table.add_row(row.group, row.topic, *map(str, numbers))
    return table


def _progress_table(rows: Sequence[Progress]) -> Table:
    names = ("consumer", "topic", "partition", "lag", "handled/s", "arriving/s", "caught up in")
    table = Table(*names, box=None)
    for row in rows:
        caught_up = "does not get closer"
        if row.catch_up_seconds is not None:
            caught_up = duration_text(row.catch_up_seconds) if row.lag else ""
        rates = (f"{row.per_second:,.0f}", f"{row.arriving_per_second:,.0f}")
        table.add_row(row.group, row.topic, str(row.partition), f"{row.lag:,}", *rates, caught_up)
    return table


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
