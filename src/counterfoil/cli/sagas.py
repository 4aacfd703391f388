"""`counterfoil events sagas` and `saga`: where sagas stand, as commands."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

State = Annotated[Path | None, Parameter(help="The state folder; default PATH/.counterfoil.")]
Json = Annotated[bool, Parameter("--json", help="Write JSON.")]


def sagas(
    path: Path = Path(),
    *,
    name: str | None = None,
    status: str | None = None,
    limit: int = 100,
    state: State = None,
    as_json: Json = False,
) -> None:
    """List sagas, the newest first: where each stands, and its last error.

    Examples: counterfoil events sagas examples/shop --status stuck

    Parameters
    ----------
    name
        Of this name only.
    status
        `running`, `compensating`, `completed`, `compensated` or `stuck` only.
    """
    from counterfoil.cli.inspection import events_of  # noqa: PLC0415
    from counterfoil.cli.timelines import print_sagas  # noqa: PLC0415

    events = events_of(path, state or path / ".counterfoil")
    print_sagas(events, name, status, limit, as_json=as_json)


def saga(number: int, path: Path = Path(), *, state: State = None, as_json: Json = False) -> None:
    """Show one saga's timeline. One that is stuck goes on when its dead letter is replayed.

    Examples: counterfoil events saga 1234567890123456789 examples/shop
    """
    from counterfoil.cli.inspection import events_of  # noqa: PLC0415
    from counterfoil.cli.timelines import print_saga  # noqa: PLC0415

    print_saga(events_of(path, state or path / ".counterfoil"), number, as_json=as_json)
