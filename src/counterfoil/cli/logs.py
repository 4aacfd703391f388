"""`counterfoil logs`: shows a process's log."""

import sys
import time
from pathlib import Path
from typing import Annotated, Final

from cyclopts import Parameter
from cyclopts.validators import Number

from counterfoil.cli.options import Folder, Json, State, state_folder

LOOK_SECONDS: Final = 0.2
"""Between two looks at a log that is followed."""


def logs(
    process: str,
    path: Folder = Path(),
    *,
    lines: Annotated[int, Parameter(validator=Number(gte=1, lte=10_000))] = 100,
    follow: bool = False,
    state: State = None,
    as_json: Json = False,
) -> None:
    """Show the end of a process's log.

    They are kept from start to start, also of one that has ended.

    Examples: counterfoil logs gateway examples/shop
              counterfoil logs pipeline-ledger examples/shop --lines 20 --follow

    Parameters
    ----------
    process
        Its name, as `counterfoil status` shows it.
    lines
        How many lines, from the last 256 KiB at most.
    follow
        Keep showing new lines, until Ctrl-C.
    """
    from contextlib import suppress  # noqa: PLC0415

    from counterfoil.application import StateFolder  # noqa: PLC0415
    from counterfoil.cli.output import write_json  # noqa: PLC0415
    from counterfoil.errors import CounterfoilError  # noqa: PLC0415
    from counterfoil.supervisor import START, log_tail  # noqa: PLC0415

    files = StateFolder(state_folder(path, state))
    file = files.process_log(process)
    known = sorted(each.stem for each in file.parent.glob("*.log"))
    if process not in known:
        raise CounterfoilError(
            f"no process {process!r} has written to {file.parent}",
            hint=f"one of {', '.join(known)}" if known else START,
        )
    found = log_tail(file, lines)
    if as_json and follow:
        raise CounterfoilError("--json shows what there is, and can't follow", hint="leave one out")
    if as_json:
        write_json(found)
        return
    sys.stdout.writelines(f"{line}\n" for line in found.lines)
    sys.stdout.flush()
    if not found.lines:
        sys.stderr.write(f"{process} has written nothing yet to {file}\n")
    if follow:
        with suppress(KeyboardInterrupt):
            _follow(file, found.end)


def _follow(file: Path, position: int) -> None:
    """Write what is added to a file after `position`, again and again."""
    with file.open("rb") as log:
        log.seek(position)
        while True:
            if added := log.read(1 << 16):
                sys.stdout.buffer.write(added)
                sys.stdout.buffer.flush()
            else:
                time.sleep(LOOK_SECONDS)
