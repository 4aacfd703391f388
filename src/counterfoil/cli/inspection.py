"""Looks into the event log for the `events` commands."""

import sys
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from counterfoil.application import StateFolder
from counterfoil.errors import CounterfoilError
from counterfoil.events import DeadLetters, EmbeddedLog
from counterfoil.supervisor.host import now_us

out = Console()


def _log(state: Path) -> EmbeddedLog:
    path = StateFolder(state).log
    if not path.exists():
        raise CounterfoilError(f"there is no event log in {state}", hint="counterfoil up makes one")
    return EmbeddedLog(path)


def print_lag(state: Path, *, as_json: bool) -> None:
    """Print a row for each consumer and partition."""
    rows = _log(state).lag()
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


def print_dead_letters(state: Path, pipeline: str | None, limit: int, *, as_json: bool) -> None:
    """Print a row for each dead letter."""
    letters = DeadLetters(_log(state)).list(pipeline=pipeline, limit=limit)
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


def print_dead_letter(state: Path, number: int) -> None:
    """Print all that is known of one dead letter, as JSON."""
    letter = DeadLetters(_log(state)).show(number)
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(letter)).decode() + "\n")


def replay_dead_letter(state: Path, number: int) -> None:
    """Replay one dead letter."""
    DeadLetters(_log(state)).replay(number, now_us())
    out.print(f"dead letter {number} is in its pipeline's retry queue")
