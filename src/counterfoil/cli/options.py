"""Options that commands share, so that each has one name, one meaning and one check.

A number that nothing can have (an id beyond 64 bits, a limit below one) is refused here, by the
name of its option, before anything is opened.
"""

from pathlib import Path
from typing import Annotated, Final

from cyclopts import Parameter
from cyclopts.validators import Number

Folder = Annotated[Path, Parameter(help="The application's folder.")]
State = Annotated[Path | None, Parameter(help="The state folder; default PATH/.counterfoil.")]
Json = Annotated[bool, Parameter("--json", help="Print JSON instead of text.")]
LARGEST_LIMIT: Final = 100_000
"""Rows that one command shows at most: all are in memory at once."""
Limit = Annotated[
    int, Parameter(help="The largest number of rows.", validator=Number(gte=1, lte=LARGEST_LIMIT))
]
Identity = Annotated[int, Parameter(validator=Number(gte=0, lt=1 << 63))]
"""An id as databases hold them."""
Letter = Annotated[int, Parameter(help="The letter's number.", validator=Number(gte=0, lt=1 << 63))]
Count = Annotated[int, Parameter(validator=Number(gte=1))]
Rate = Annotated[float, Parameter(validator=Number(gte=0))]
Seconds = Annotated[float, Parameter(validator=Number(gt=0))]
Engines = Annotated[
    str,
    Parameter(help="Override engines of counterfoil.toml: PART=ENGINE, comma-separated."),
]


def state_folder(path: Path, state: Path | None) -> Path:
    """The folder that `--state` names, or the one an application has without it."""
    return state if state is not None else path / ".counterfoil"
