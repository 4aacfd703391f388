"""What holds of every command: its help, its numbers, what it writes where no terminal reads it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cyclopts
import pytest
from docstring_parser import parse_from_object

from counterfoil import cli
from counterfoil.application import StateFolder
from counterfoil.application.state import write_json
from counterfoil.cli.commands import app
from counterfoil.cli.output import UNBOUNDED, new_console, new_table
from counterfoil.events import EmbeddedEvents, Record
from counterfoil.events.dead_letters import bury

SHOP = Path(__file__).parents[2] / "examples" / "shop"
COUNTERFOIL = Path(sys.executable).with_name("counterfoil")
LARGE_ID = (1 << 62) + 1


def commands(of: cyclopts.App, names: tuple[str, ...] = ()) -> Iterator[tuple[str, cyclopts.App]]:
    """Every command under its whole name."""
    for name in of:
        if not name.startswith("-"):
            yield from commands(of[name], (*names, name))
    if names and of.default_command is not None:
        yield " ".join(names), of


COMMANDS = dict(commands(app))


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_says_what_it_does_and_its_parameters_do_with_an_example(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([*name.split(), "--help"])
    assert not ended.value.code
    told = capsys.readouterr().out
    assert f"counterfoil {name}" in told.partition("Example")[2], "an example of it"
    assert "--no-" not in told, "a switch is off unless it is given"

    found = COMMANDS[name]
    assert found.default_command is not None
    described = {each.arg_name for each in parse_from_object(found.default_command).params}
    missing = [
        argument.name
        for argument in found.assemble_argument_collection()
        if argument.parse
        and not argument.parameter.help
        and not argument.children
        and argument.field_info.name not in described | set(FILTERS)
    ]
    assert missing == []


FILTERS = ("pipeline", "topic", "key", "error", "since", "until")
"""Described where they stand, for all commands on dead letters."""


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("events dlq show 99999999999999999999", "NUMBER"),
        ("events dlq list --before -1", "--before"),
        ("events saga 99999999999999999999", "NUMBER"),
        ("events sagas --status lost", "--status"),
        ("events read payments --limit -1", "--limit"),
        ("events lag --watch --every 0", "--every"),
        ("events transactions hanging --idle -1", "--idle"),
        ("prove --purchases -5", "--purchases"),
        ("events verify --clients 0", "--clients"),
    ],
)
def test_a_number_that_nothing_can_have_is_refused_by_the_name_of_its_option(
    command: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(command.split())
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_cells_are_shown_as_they_came_and_whole(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)  # the width of whoever runs the tests
    cells = ["[/red] is no markup", "[bold]nor is this[/]", "x" * 200, 1_234_567]
    console = new_console()
    assert console.width == UNBOUNDED
    console.print(new_table(("a", "b", "c", "number"), [cells]))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert all(str(cell) in lines[1] for cell in cells[:3])
    assert lines[1].rstrip().endswith("1,234,567")


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """The state folder of a shop that ran once, with one dead letter."""
    nowhere = dict.fromkeys(("coordination", "gateway", "admin", "console"), "")
    write_json(StateFolder(tmp_path).addresses, nowhere)
    store = EmbeddedEvents(tmp_path).pipelines()
    value = b'{"id":%d,"customer":"[/c]"}' % LARGE_ID
    record = Record("payments", 0, 0, LARGE_ID, "[/c]", value, {"[x]": "[/y]"}, 1)
    with store.database.transaction():
        bury(store, "ledger", record, ValueError("expected [/this]"), tries=3, now_us=2)
    return tmp_path


def test_a_letter_is_shown_whatever_signs_stand_in_it(
    state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in ("list", "show 1"):
        with pytest.raises(SystemExit) as ended:
            cli.main(["events", "dlq", *command.split(), str(SHOP), "--state", str(state)])
        assert not ended.value.code
        told = capsys.readouterr().out
        assert "[/c]" in told
        assert "expected [/this]" in told


def test_the_value_alone_keeps_every_digit_of_an_id_for_an_edit(
    state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        cli.main(["events", "dlq", "show", "1", str(SHOP), "--value", "--state", str(state)])
    assert f'"id": {LARGE_ID}' in capsys.readouterr().out


def test_a_reader_that_has_seen_enough_ends_a_command_without_a_word(state: Path) -> None:
    command = [COUNTERFOIL, "events", "dlq", "show", "1", SHOP, "--value", "--state", state]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(30) != 0


def test_no_application_is_started_with_a_seeded_bug(tmp_path: Path) -> None:
    environment = {**os.environ, "COUNTERFOIL_SABOTAGE": "idempotency-off"}
    refused = subprocess.run(
        [COUNTERFOIL, "up", SHOP, "--state", tmp_path / "state", "--free-ports"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert refused.returncode == 2
    assert "COUNTERFOIL_SABOTAGE=idempotency-off enables a bug" in refused.stderr
    assert not (tmp_path / "state").exists()
