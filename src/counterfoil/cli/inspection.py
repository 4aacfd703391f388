"""Reads and prints what the `events` commands show of the event log."""

import sys
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from itertools import islice
from pathlib import Path
from typing import Any, Final

import msgspec
from rich.live import Live
from rich.table import Table
from rich.text import Text

from counterfoil.application import Application, StateFolder, load_application
from counterfoil.cli.output import (
    new_table,
    out,
    print_table,
    styled,
    write_json,
    write_json_line,
)
from counterfoil.cli.times import duration_text, parse_time, time_text
from counterfoil.errors import CounterfoilError
from counterfoil.events import (
    UNFINISHED,
    DeadLetters,
    Events,
    Hanging,
    KafkaEvents,
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
from counterfoil.events.pipeline_store import PipelineStore
from counterfoil.events.shares import whole
from counterfoil.supervisor import last_addresses, last_configuration, open_events
from counterfoil.supervisor.host import now_us

MARKERS: Final = (
    "Kafka counts the marker at the end of each transaction: a lag that stays at 1 is none"
)


def events_of(folder: Path, state: Path) -> Events:
    """The events of the application in `folder`, as they were last run in `state`.

    Raises:
        CounterfoilError: it never ran there.
    """
    return application_and_events(folder, state)[1]


def application_and_events(folder: Path, state: Path) -> tuple[Application, Events]:
    """The application in `folder`, and its events as they were last run in `state`.

    Raises:
        CounterfoilError: it never ran there, or the engines are other ones by now.
    """
    files = StateFolder(state)
    addresses = last_addresses(files)
    configuration = last_configuration(folder, files)
    application = load_application(folder.resolve(), configuration.application.module)
    events = open_events(application.name, configuration, files, addresses)
    attach_schemas(application.all_topics(), events.registry)
    return application, events


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
        words = f"{each['letters']:,} of {each['pipeline']} wait for a decision, the last since"
        line = Text.assemble(("dead letters", "red"), f"  {words} {since} UTC")
        out.print(line, highlight=False)
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
    if isinstance(events, KafkaEvents) and any(row.lag for row in rows):
        out.print(MARKERS, style="dim", highlight=False)
    print_waiting(waiting_letters(events))


def left_behind(application: Application, events: Events) -> list[str]:
    """A line for each consumer that has positions and is not declared any more.

    Under a new name a pipeline begins with the oldest events, and with nothing: whoever has renamed
    one should hear of it.
    """
    try:
        with closing(events.pipelines()) as store:
            names = _undeclared(application, store)
    except StoreUnavailable:
        return []  # `status` tells of that
    return [
        f"{name} is not declared any more, and its position is kept: if it was renamed, the new "
        f"one has begun with the oldest events. See `counterfoil events forget {name}`"
        for name in names
    ]


def _undeclared(application: Application, store: PipelineStore) -> list[str]:
    return sorted({whole(each[0]) for each in store.consumers()} - application.consumers())


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
        known = _undeclared(application, store)
    if not forgotten:
        hint = f"not declared, but known: {', '.join(known) or 'none'}"
        raise CounterfoilError(f"no consumer {consumer!r}", hint=hint)
    out.print(f"{consumer} is forgotten", highlight=False, markup=False)


def watch_lag(events: Events, every: float, *, as_json: bool) -> None:
    """Print lag with rates, again and again, until Ctrl-C."""
    with (
        closing(events.pipelines()) as store,
        suppress(KeyboardInterrupt),
        Live(console=out, auto_refresh=False, transient=True) as live,
    ):
        log, before, seen = events.log(), list[Lag](), time.monotonic()
        while True:
            rows, now = lag(log, store), time.monotonic()
            found = progress(before, rows, max(now - seen, 0.001)) if before else []
            if as_json:
                if found:
                    write_json_line(found)
            else:
                table = _progress_table(found) if found else _lag_table(rows)
                if out.is_terminal:
                    live.update(table, refresh=True)
                else:  # there is no line to go back to: one table after the other
                    out.print(f"{time_text(now_us())} UTC", table, highlight=False)
            before, seen = rows, now
            time.sleep(every)


def print_topics(application: Application, events: Events, *, as_json: bool) -> None:
    """Print a row for each topic."""
    found = topics(events.log(), application.all_topics())
    if as_json:
        write_json(found)
        return
    print_table(
        ("topic", "partitions", "records", "largest over mean", "ends"),
        [
            (
                each.name,
                len(each.partitions),
                each.records,
                f"{each.skew:.2f}" if each.records else "",
                " ".join(f"{place.end:,}" for place in each.partitions),
            )
            for each in found
        ],
        right=("largest over mean",),
    )


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
            write_json_line(document)
        else:
            place = f"{record.topic}/{record.partition}@{record.offset}"
            found = readable(record.value, topic)
            value = found if isinstance(found, str) else bytes(found).decode()
            line = f"{place}  {time_text(record.timestamp_us)}  {record.key}  {value}"
            out.print(line, highlight=False, markup=False, soft_wrap=True)


def _lag_table(rows: Sequence[Lag]) -> Table:
    return new_table(
        ("consumer", "topic", "partition", "committed", "end", "lag"),
        [(row.group, row.topic, row.partition, row.committed, row.end, row.lag) for row in rows],
    )


def _progress_table(rows: Sequence[Progress]) -> Table:
    rates = ("handled/s", "arriving/s", "caught up in")
    return new_table(
        ("consumer", "topic", "partition", "lag", *rates),
        [
            (
                row.group,
                row.topic,
                row.partition,
                row.lag,
                f"{row.per_second:,.0f}",
                f"{row.arriving_per_second:,.0f}",
                _caught_up(row),
            )
            for row in rows
        ],
        right=rates,
    )


def _caught_up(row: Progress) -> str:
    if row.catch_up_seconds is None:
        return "gets no closer"
    return duration_text(row.catch_up_seconds) if row.lag else ""


def print_transactions(transactions: Sequence[Transaction], *, as_json: bool) -> None:
    """Print a row for each transaction."""
    if as_json:
        write_json(transactions)
        return
    if not transactions:
        out.print("no transactions: no source has sent anything, and no SQLite file is locked")
        return
    print_table(
        ("id", "state", "holder", "age", "timeout", "partitions"),
        [
            (
                each.id,
                styled(each.state, "yellow") if each.state in UNFINISHED else each.state,
                each.holder,
                "" if each.age_seconds is None else duration_text(each.age_seconds),
                "" if each.timeout_seconds is None else duration_text(each.timeout_seconds),
                ", ".join(each.partitions),
            )
            for each in transactions
        ],
        right=("age", "timeout"),
    )


def print_hanging(hanging: Sequence[Hanging], *, as_json: bool) -> None:
    """Print a row for each transaction that hangs."""
    if as_json:
        write_json(hanging)
        return
    if not hanging:
        out.print("no transaction hangs")
        return
    print_table(
        ("partition", "since offset", "producer", "epoch", "idle"),
        [
            (
                each.partition,
                each.first_offset,
                str(each.producer_id),
                str(each.producer_epoch),
                duration_text(each.idle_seconds),
            )
            for each in hanging
        ],
        right=("producer", "epoch", "idle"),
    )
