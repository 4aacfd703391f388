"""`counterfoil events sagas` and `saga`: the commands; `timelines.py` prints."""

from pathlib import Path
from typing import Literal

from counterfoil.cli.options import Folder, Identity, Json, Limit, State, state_folder


def sagas(
    path: Folder = Path(),
    *,
    name: str | None = None,
    status: Literal["running", "compensating", "completed", "compensated", "stuck"] | None = None,
    limit: Limit = 100,
    state: State = None,
    as_json: Json = False,
) -> None:
    """List sagas, newest first, with their status and last error.

    Example: counterfoil events sagas examples/shop --status stuck

    Parameters
    ----------
    name
        Only of this name.
    status
        Only in this status.
    """
    from counterfoil.cli.inspection import events_of  # noqa: PLC0415
    from counterfoil.cli.timelines import print_sagas  # noqa: PLC0415

    events = events_of(path, state_folder(path, state))
    print_sagas(events, name, status, limit, as_json=as_json)


def saga(
    number: Identity, path: Folder = Path(), *, state: State = None, as_json: Json = False
) -> None:
    """Show the timeline of a saga.

    One that is stuck goes on when its dead letter is replayed.

    Example: counterfoil events saga 1234567890123456789 examples/shop

    Parameters
    ----------
    number
        The id of the event that began it, as `counterfoil events sagas` shows it.
    """
    from counterfoil.cli.inspection import events_of  # noqa: PLC0415
    from counterfoil.cli.timelines import print_saga  # noqa: PLC0415

    print_saga(events_of(path, state_folder(path, state)), number, as_json=as_json)
