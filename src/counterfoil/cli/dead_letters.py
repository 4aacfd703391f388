"""Carries out the commands on dead letters, and prints what came of them."""

import getpass
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from counterfoil.application import Application
from counterfoil.cli.dlq import Filters
from counterfoil.cli.inspection import application_and_events
from counterfoil.cli.options import state_folder
from counterfoil.cli.output import (
    Style,
    new_console,
    out,
    print_table,
    styled,
    write_json,
    write_json_line,
)
from counterfoil.cli.times import parse_time, time_text
from counterfoil.errors import CounterfoilError
from counterfoil.events import (
    AuditEntry,
    DeadLetter,
    DeadLetters,
    Handled,
    NoHandler,
    Outcome,
    Pace,
    Pipeline,
    Selection,
    act_on_each,
    handle,
    in_order,
    readable,
    rehearse,
)
from counterfoil.events.dead_letters import State, document
from counterfoil.events.topics import AnyTopic
from counterfoil.supervisor.host import now_us

COLOURS: Final[dict[str, Style]] = {"done": "green", "failed": "red", "skipped": "yellow"}


@contextmanager
def opened(path: Path, state: Path | None) -> "Generator[Desk, None, None]":
    """The dead letters of the application in `path`; who acts is whoever is logged in.

    Raises:
        CounterfoilError: it never ran.
    """
    application, events = application_and_events(path, state_folder(path, state))
    with closing(events.pipelines()) as store:
        actor = f"{getpass.getuser()}, command line"
        yield Desk(application, DeadLetters(store, actor=actor))


def replacement(value: str | None, file: Path | None) -> bytes:
    """The bytes that an edit puts in place.

    Raises:
        CounterfoilError: they were given twice, or not at all, or can't be read.
    """
    if (value is None) == (file is None):
        raise CounterfoilError("what is the replacement?", hint="give either --value or --file")
    if value is not None:
        return value.encode()
    assert file is not None
    try:
        return sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise CounterfoilError(f"{file}: {error.strerror}") from error


class Desk:
    """The letters of one application, and what is printed of them."""

    def __init__(self, application: Application, letters: DeadLetters) -> None:
        self._application = application
        self._topics = {topic.name: topic for topic in application.all_topics()}
        self._letters = letters

    def selection(self, filters: Filters, state: State | None = None) -> Selection:
        """The letters that a command's filters select."""
        now = now_us()
        return Selection(
            pipeline=filters.pipeline,
            topic=filters.topic,
            key=filters.key,
            error=filters.error,
            since_us=None if filters.since is None else parse_time(filters.since, now),
            until_us=None if filters.until is None else parse_time(filters.until, now),
            state=state,
        )

    def list(self, selection: Selection, before: int | None, limit: int, *, as_json: bool) -> None:
        """Print a row for each letter."""
        letters = self._letters.list(selection, before=before, limit=limit)
        if as_json:
            write_json([document(letter, self._topics.get(letter.stream)) for letter in letters])
            return
        if not letters:
            out.print("no dead letters" if selection.is_everything else "none that fit")
            return
        print_table(
            ("id", "pipeline", "source", "key", "failed (UTC)", "error", "state"),
            [
                (
                    str(letter.id),
                    letter.pipeline,
                    f"{letter.topic}/{letter.partition}@{letter.offset}",
                    letter.key,
                    time_text(letter.failed_us),
                    letter.error,
                    letter.state,
                )
                for letter in letters
            ],
        )
        if len(letters) == limit:
            out.print(f"older ones: --before {letters[-1].id}", style="dim")

    def show(self, number: int, *, as_json: bool) -> None:
        """Print all that is known of one letter."""
        letter, entries = self._letters.show(number), self._letters.audit(number)
        topic = self._topics.get(letter.stream)
        if as_json:
            audit = [_entry(entry) for entry in entries]
            write_json({**document(letter, topic), "audit": audit})
            return
        facts = Table.grid(padding=(0, 2))
        for name, value in (
            ("pipeline", letter.pipeline),
            ("source", f"{letter.topic}, partition {letter.partition}, offset {letter.offset}"),
            ("event", f"{letter.event_id}, key {letter.key}"),
            ("failed", f"{time_text(letter.failed_us)} UTC, after {letter.tries} tries"),
            ("state", letter.state),
            *((f"header {name}", value) for name, value in sorted(letter.headers.items())),
        ):
            facts.add_row(styled(name, "dim"), Text(value))
        out.print(facts, highlight=False)
        _print_part("error", letter.error)
        if letter.replacement is not None:
            _print_part("value, as it was edited", _pretty(letter.replacement, topic))
        _print_part("value, as it came in", _pretty(letter.value, topic))
        _print_part("traceback", letter.traceback.rstrip())
        if entries:
            out.print("\n[bold]audit[/]")
            _print_entries(entries)

    def show_value(self, number: int) -> None:
        """Write what a replay would hand over, alone: JSON over several lines where it is JSON."""
        letter = self._letters.show(number)
        sys.stdout.write(_pretty(letter.payload, self._topics.get(letter.stream)) + "\n")

    def edit(self, number: int, replacement: bytes) -> None:
        """Replace the value of a letter."""
        topic = self._topic(self._letters.show(number))
        self._letters.edit(number, replacement, topic, now_us())
        out.print(f"dead letter {number} is edited; try it, or replay it", highlight=False)

    def rehearse(self, which: str, selection: Selection, *, as_json: bool) -> int:
        """Try letters, and print what their handlers would do; returns the exit code."""
        failed = False
        for letter in self._letters_of(which, selection):
            handled = rehearse(self._letters, letter.id, self._pipeline(letter), now_us())
            failed = failed or handled.error is not None
            if as_json:
                write_json_line(handled)
            else:
                _print_handled(handled)
        return 1 if failed else 0

    def replay(
        self, which: str, selection: Selection, via: str, rate: float, *, as_json: bool
    ) -> int:
        """Replay letters; returns the exit code."""

        def by_topic(letter: DeadLetter) -> str:
            self._letters.replay(letter.id, now_us())
            return f"in the retries of {letter.pipeline}"

        def by_handler(letter: DeadLetter) -> str:
            return str(handle(self._letters, letter.id, self._pipeline(letter), now_us()))

        act = by_handler if via == "handler" else by_topic
        return self._each("replaying", which, selection, act, rate, as_json=as_json)

    def discard(self, which: str, selection: Selection, reason: str, *, as_json: bool) -> int:
        """Discard letters; returns the exit code."""
        if not reason.strip():
            raise CounterfoilError("a letter is discarded for a reason", hint='--reason "..."')

        def act(letter: DeadLetter) -> str:
            self._letters.discard(letter.id, reason, now_us())
            return "discarded"

        return self._each("discarding", which, selection, act, 0, as_json=as_json)

    def audit(self, number: int | None, before: int | None, limit: int, *, as_json: bool) -> None:
        """Print what was done."""
        entries = self._letters.audit(number, before=before, limit=limit)
        if as_json:
            write_json([_entry(entry) for entry in entries])
        elif entries:
            _print_entries(entries)
        else:
            out.print("nobody has done anything yet")

    def _topic(self, letter: DeadLetter) -> AnyTopic:
        for topic in self._application.all_topics():
            if topic.name == letter.stream:
                return topic
        raise CounterfoilError(
            f"{self._application.name} declares no topic {letter.stream!r} any more",
            hint="what its events are is not known: replay or discard the letter as it is",
        )

    def _pipeline(self, letter: DeadLetter) -> Pipeline[Any]:
        found = self._application.pipelines.get(letter.pipeline)
        if found is None:
            raise NoHandler(
                f"{self._application.name} declares no pipeline {letter.pipeline!r}",
                hint="what is no pipeline, such as a saga, is replayed by its retries",
            )
        return found

    def _letters_of(self, which: str, selection: Selection) -> Iterator[DeadLetter]:
        """The letter of a number, or all that wait and are selected, the oldest first."""
        if which == "all":
            return in_order(self._letters, msgspec.structs.replace(selection, state="waiting"))
        if which.isdecimal() and selection.is_everything:
            return iter([self._letters.show(int(which))])
        raise CounterfoilError(
            f"which letters are {which!r}?",
            hint="give the number of one, or `all` with filters such as --pipeline",
        )

    def _each(
        self,
        title: str,
        which: str,
        selection: Selection,
        act: Callable[[DeadLetter], str],
        rate: float,
        *,
        as_json: bool,
    ) -> int:
        """Act on one letter, or on all that are selected, and tell of each."""
        number = 1
        if which == "all":
            number, _ = self._letters.count(msgspec.structs.replace(selection, state="waiting"))
        pace = Pace(rate, time.monotonic, time.sleep)
        outcomes = act_on_each(self._letters_of(which, selection), act, pace)
        found = list(_told(outcomes, title, number, as_json=as_json))
        if not as_json:
            done = sum(outcome.result == "done" for outcome in found)
            out.print(f"{done} of {len(found)} done" if found else "none that wait")
        return 0 if all(outcome.result == "done" for outcome in found) else 1


def _told(
    outcomes: Iterable[Outcome], title: str, number: int, *, as_json: bool
) -> Iterator[Outcome]:
    """The outcomes, each of which is printed as it comes."""
    if as_json:
        for outcome in outcomes:
            write_json_line(outcome)
            yield outcome
        return
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=new_console(stderr=True)) as progress:
        task = progress.add_task(title, total=number)
        for outcome in outcomes:
            colour = COLOURS[outcome.result]
            line = Text.assemble(
                (f"{outcome.result:<8}", colour), f"{outcome.letter:>8}  {outcome.detail}"
            )
            out.print(line, highlight=False)
            progress.advance(task)
            yield outcome


def _print_handled(handled: Handled) -> None:
    out.print(f"[bold]dead letter {handled.letter}[/]", highlight=False)
    if handled.error is not None:
        out.print(Text.assemble(("  fails again", "red"), f"  {handled.error}"), highlight=False)
        return
    for transfer in handled.transfers:
        amount = f"{transfer.amount} {transfer.currency} (minor units), {transfer.code}"
        _print_deed("transfer", f"{transfer.debit} to {transfer.credit}: {amount}")
    for event in handled.emitted:
        _print_deed("event", f"{event.topic}, key {event.key}: {_text(event.value)}")
    for change in handled.state:
        after = "deleted" if change.value is None else _text(change.value)
        _print_deed("state", f"{change.key}: {after}")
    for written in handled.written:
        _print_deed("rows", f"{written.statement} {written.table}: {written.rows}")
    if str(handled) == "no effect":
        _print_deed("nothing", "its handler has no effect on this event")


def _print_deed(kind: str, text: str) -> None:
    out.print(f"  {kind:<9}", text, highlight=False, markup=False, sep="", soft_wrap=True)


def _text(value: msgspec.Raw | str) -> str:
    return value if isinstance(value, str) else bytes(value).decode()


def _entry(entry: AuditEntry) -> dict[str, Any]:
    value = None if entry.value is None else readable(entry.value)
    return {**msgspec.structs.asdict(entry), "value": value}


def _print_entries(entries: Iterable[AuditEntry]) -> None:
    print_table(
        ("id", "when (UTC)", "who", "letter", "did", ""),
        [
            (
                str(entry.id),
                time_text(entry.at_us),
                entry.actor,
                str(entry.letter),
                entry.action,
                entry.detail if entry.value is None else _pretty(entry.value, indent=0),
            )
            for entry in entries
        ],
    )


def _print_part(title: str, text: str) -> None:
    out.print(f"\n[bold]{title}[/]")
    out.print(text, highlight=False, markup=False, soft_wrap=True)


def _pretty(value: bytes, topic: AnyTopic | None = None, *, indent: int = 2) -> str:
    found = readable(value, topic)
    if isinstance(found, str):
        return found
    return msgspec.json.format(bytes(found), indent=indent).decode()
