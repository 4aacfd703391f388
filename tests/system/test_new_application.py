"""What `counterfoil new` writes is an application unlike the shop: it is proved and sabotaged."""

import subprocess
import sys
from pathlib import Path

from counterfoil.testing import prove


def new(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [Path(sys.executable).with_name("counterfoil"), "new", folder]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_new_application_is_small_holds_and_fails_when_sabotaged(tmp_path: Path) -> None:
    folder = tmp_path / "purse"
    assert new(folder).returncode == 0
    files = sorted(folder.iterdir())
    assert [file.name for file in files] == ["counterfoil.toml", "purse.py", "test_purse.py"]
    code = [line for line in (folder / "purse.py").read_text().splitlines() if line.strip()]
    assert len(code) < 100
    tests = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", folder],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert tests.returncode == 0, tests.stdout
    verdict = prove(folder, tmp_path / "s", requests=300, sabotage="offsets-before-state")
    assert verdict.verdict == "fails"
    assert {difference.where for difference in verdict.differences} >= {"ledger"}


def test_an_existing_folder_is_left_alone(tmp_path: Path) -> None:
    result = new(tmp_path)
    assert result.returncode == 2
    assert "exists" in result.stderr
    assert list(tmp_path.iterdir()) == []
