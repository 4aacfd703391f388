"""Writes a new application from `template`, renamed."""

import keyword
import sys
from pathlib import Path
from typing import Final

from counterfoil.errors import CounterfoilError

TEMPLATE: Final = Path(__file__).parent / "template"
FILES: Final = ("counterfoil.toml", "wallet.py", "test_wallet.py")


def write_application(folder: Path) -> list[Path]:
    """Write an application into the new folder `folder`, named after it.

    Raises:
        CounterfoilError: the folder exists, or its name can't be a module's.
    """
    name = folder.name
    if not name.isidentifier() or not name.islower():
        raise CounterfoilError(
            f"{name!r} can't be the name of a Python module",
            hint="use lower-case letters, digits and underscores",
        )
    if keyword.iskeyword(name) or name in {*sys.stdlib_module_names, "counterfoil"}:
        raise CounterfoilError(
            f"{name!r} is a word or a module of Python's, or Counterfoil's own",
            hint="choose another name: one module would hide the other",
        )
    if folder.exists():
        raise CounterfoilError(f"{folder} exists", hint="choose another name")
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise CounterfoilError(
            f"{folder} can't be made: {error.strerror}", hint="choose another place"
        ) from error
    written: list[Path] = []
    for file in FILES:
        path = folder / file.replace("wallet", name)
        path.write_text((TEMPLATE / file).read_text().replace("wallet", name))
        written.append(path)
    return written
