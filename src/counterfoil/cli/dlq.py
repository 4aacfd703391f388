"""`counterfoil events dlq`: the commands on dead letters; `dead_letters.py` carries them out."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import cyclopts
from cyclopts import Parameter

from counterfoil.cli.options import Folder, Identity, Json, Letter, Limit, Rate, State

app = cyclopts.App(name="dlq", help="Find, show, edit, try, replay and discard dead letters.")

Which = Annotated[
    str, Parameter(help="A letter's number, or `all` for every letter that the filters select.")
]
PER_SECOND = 100.0


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Filters:
    """Selects letters: all filters that are given must match."""

    pipeline: str | None = None
    "Only of this pipeline."
    topic: str | None = None
    "Only from this topic: the pipeline's source, or its retries."
    key: str | None = None
    "Only with this key."
    error: str | None = None
    "Only with this text in the error message; case is ignored."
    since: str | None = None
    "Failed at or after: 2026-03-01T12:30 (UTC), or an age such as 15m, 2h, 3d."
    until: str | None = None
    "Failed before: likewise."


@app.command(name="list")
def list_letters(
    path: Folder = Path(),
    filters: Filters = Filters(),
    *,
    status: Literal["waiting", "replayed", "discarded"] | None = None,
    before: Identity | None = None,
    limit: Limit = 100,
    state: State = None,
    as_json: Json = False,
) -> None:
    """List dead letters, newest first.

    Examples: counterfoil events dlq list examples/shop --status waiting --since 2h
              counterfoil events dlq list examples/shop --error "holds USD" --json

    Parameters
    ----------
    status
        Only in this status.
    before
        Only letters with a smaller number (the last one of the previous page).
    """
    from counterfoil.cli import dead_letters  # noqa: PLC0415

    with dead_letters.opened(path, state) as desk:
        desk.list(desk.selection(filters, status), before, limit, as_json=as_json)


@app.command
def show(
    number: Letter,
    path: Folder = Path(),
    *,
    value: bool = False,
    state: State = None,
    as_json: Json = False,
) -> None:
    """Show one dead letter: its value, origin, error and history.

    Examples: counterfoil events dlq show 12 examples/shop
              counterfoil events dlq show 12 examples/shop --value > event.json

    Parameters
    ----------
    value
        Print only its current value, to edit it (note: jq before 1.7 rounds 64-bit ids).
    """
    from counterfoil.cli import dead_letters  # noqa: PLC0415

    with dead_letters.opened(path, state) as desk:
        if value:
            desk.show_value(number)
        else:
            desk.show(number, as_json=as_json)


@app.command
def edit(
    number: Letter,
    path: Folder = Path(),
    *,
    value: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None,
    file: Annotated[Path | None, Parameter(allow_leading_hyphen=True)] = None,
    state: State = None,
) -> None:
    """Replace the value of a dead letter with a valid event of its topic.

    The original is kept; a replay uses the newest replacement.

    Examples: counterfoil events dlq edit 12 examples/shop --value '{"id": 7, "amount": 100}'
              counterfoil events dlq show 12 examples/shop --value > event.json
              counterfoil events dlq edit 12 examples/shop --file event.json

    Parameters
    ----------
    value
        The replacement, as JSON.
    file
        A file with the replacement; `-` is standard input.
    """
    from counterfoil.cli import dead_letters  # noqa: PLC0415

    replacement = dead_letters.replacement(value, file)
    with dead_letters.opened(path, state) as desk:
        desk.edit(number, replacement)


@app.command(name="try")
def try_letters(
    which: Which,
    path: Folder = Path(),
    filters: Filters = Filters(),
    *,
    state: State = None,
    as_json: Json = False,
) -> None:
    """Run the handler on dead letters, show its effects or its error, and roll back.

    Side effects outside of its context, such as a call to another service,
    can't be rolled back. With --json there is a line for each letter. Exit 1 if
    some would fail again.

    Examples: counterfoil events dlq try 12 examples/shop
              counterfoil events dlq try all examples/shop --pipeline ledger --json
    """
    from counterfoil.cli import dead_letters  # noqa: PLC0415

    with dead_letters.opened(path, state) as desk:
        sys.exit(desk.rehearse(which, desk.selection(filters), as_json=as_json))


@app.command
def replay(
    which: Which,
    path: Folder = Path(),
    filters: Filters = Filters(),
    *,
    via: Literal["retries", "handler"] = "retries",
    rate: Rate = PER_SECOND,
    state: State = None,
    as_json: Json = False,
) -> None:
    """Hand dead letters to their pipelines again, each once, oldest first.

    No other pipeline sees them again. With --json there is a line for
    each letter. Exit 1 if some could not be replayed.

    Examples: counterfoil events dlq replay 12 examples/shop
              counterfoil events dlq replay all examples/shop --error timeout --rate 20
              counterfoil events dlq replay all examples/shop --via handler

    Parameters
    ----------
    via
        `retries`: through the pipeline's retry topic. `handler`: at once, in this process.
    rate
        The largest number per second; 0 for no limit.
    """
    from counterfoil.cli import dead_letters  # noqa: PLC0415

    with dead_letters.opened(path, state) as desk:
        sys.exit(desk.replay(which, desk.selection(filters), via, rate, as_json=as_json))


@app.command
def discard(
    which: Which,
    path: Folder = Path(),
    filters: Filters = Filters(),
    *,
    reason: str,
    state: State = None,
    as_json: Json = False,
) -> None:
    """Mark dead letters as not to be handled; they are kept, with the reason.

    With --json there is a line for each letter. Exit 1 if some could not be discarded.

    Example: counterfoil events dlq discard all examples/shop --key test --reason "a test"

    Parameters
    ----------
    reason
        The reason, for the audit.
    """
    from counterfoil.cli import dead_letters  # noqa: PLC0415

    with dead_letters.opened(path, state) as desk:
        sys.exit(desk.discard(which, desk.selection(filters), reason, as_json=as_json))


@app.command
def audit(
    path: Folder = Path(),
    *,
    letter: Identity | None = None,
    before: Identity | None = None,
    limit: Limit = 100,
    state: State = None,
    as_json: Json = False,
) -> None:
    """Show who did what to which letter, newest first.

    Examples: counterfoil events dlq audit examples/shop
              counterfoil events dlq audit examples/shop --letter 12

    Parameters
    ----------
    letter
        Only of the letter with this number.
    before
        Only entries with a smaller id (the last one of the previous page).
    """
    from counterfoil.cli import dead_letters  # noqa: PLC0415

    with dead_letters.opened(path, state) as desk:
        desk.audit(letter, before, limit, as_json=as_json)
