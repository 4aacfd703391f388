"""What is installed from the wheel is whole: native code, the console's page, the templates."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_wheel_carries_all_that_a_machine_without_the_checkout_needs(tmp_path: Path) -> None:
    uv = shutil.which("uv") or ROOT / ".tools" / "uv" / "bin" / "uv"
    build = [uv, "build", "--wheel", "--offline", "--out-dir", tmp_path]
    built = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    installed = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    static = installed / "counterfoil" / "console" / "static"
    needed = re.findall(r'(?:src|href)="/([^"]+)"', (static / "index.html").read_text())
    assert any(name.endswith(".js") for name in needed)
    for name in needed:
        assert (static / name).stat().st_size > 0, name
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    new = "import counterfoil, sys; from counterfoil.cli import main; print(counterfoil.__file__)"
    new += "; from counterfoil import _native; sys.argv[1:] = ['new', 'purse']; main()"
    ran = subprocess.run(
        [sys.executable, "-c", new],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith(str(installed))
    assert (tmp_path / "purse" / "counterfoil.toml").exists()
