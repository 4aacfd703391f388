"""Places where no folder can be are named, with what to do: not with a traceback."""

from pathlib import Path

import pytest
from running import SHOP

from counterfoil import cli


def refused(capture: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 2
    return capture.readouterr().err


def test_a_state_folder_that_can_not_be_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.touch()
    for place in (file, file / "below"):
        said = refused(capsys, "up", str(SHOP), "--state", str(place), "--free-ports")
        assert f"the state folder {place} can't be used" in said
        assert "hint: choose another one with --state" in said


def test_a_new_application_in_a_place_for_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert "can't be made" in refused(capsys, "new", str(tmp_path / "file" / "wallet"))
    for name in ("class", "json", "counterfoil"):
        assert "choose another name" in refused(capsys, "new", str(tmp_path / name))
        assert not (tmp_path / name).exists()
