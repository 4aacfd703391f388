"""`counterfoil events transactions`: shows, finds and aborts transactions."""

import sys
from pathlib import Path

import cyclopts

from counterfoil.cli.options import Folder, Json, Rate, State, state_folder

app = cyclopts.App(name="transactions")

IDLE_SECONDS = 900.0
"""Kafka's default for the longest transaction (`transaction.max.timeout.ms`)."""


@app.default
def list_transactions(path: Folder = Path(), *, state: State = None, as_json: Json = False) -> None:
    """Show the newest transaction of each source; find and end hanging ones.

    On Kafka: its state, producer, age and partitions. `empty` is a producer
    that has sent nothing yet; what its predecessor had left open is aborted.
    On the embedded engine: which process holds the write lock of which SQLite
    file.

    Example: counterfoil events transactions examples/shop
    """
    from counterfoil.cli.inspection import events_of, print_transactions  # noqa: PLC0415
    from counterfoil.supervisor.host import now_us  # noqa: PLC0415

    transactions = events_of(path, state_folder(path, state)).transactions()
    print_transactions(transactions.newest(now_us()), as_json=as_json)


@app.command
def hanging(
    path: Folder = Path(),
    *,
    idle: Rate = IDLE_SECONDS,
    abort: bool = False,
    state: State = None,
    as_json: Json = False,
) -> None:
    """Find transactions that are open in a partition but unknown to any coordinator.

    They block readers for good. Exit 1 if there are some and --abort is not given.

    Examples: counterfoil events transactions hanging examples/shop
              counterfoil events transactions hanging examples/shop --idle 60 --abort

    Parameters
    ----------
    idle
        Only those whose producer has been silent for this many seconds.
    abort
        Abort them: the partitions' leaders write the missing markers.
    """
    from counterfoil.cli.inspection import events_of, print_hanging  # noqa: PLC0415
    from counterfoil.supervisor.host import now_us  # noqa: PLC0415

    transactions = events_of(path, state_folder(path, state)).transactions()
    found = transactions.hanging(now_us(), idle)
    print_hanging(found, as_json=as_json)
    if abort:
        for each in found:
            transactions.abort_hanging(each)
            sys.stderr.write(f"{each.partition}: aborted what began at {each.first_offset}\n")
    sys.exit(1 if found and not abort else 0)


@app.command
def abort(identity: str, path: Folder = Path(), *, state: State = None) -> None:
    """Abort the open transaction of a transactional id, and fence its producer.

    A fenced relay begins a new term by itself, and sends again what was aborted.

    Example: counterfoil events transactions abort shop.payments examples/shop

    Parameters
    ----------
    identity
        The transactional id, as `counterfoil events transactions` shows it.
    """
    from counterfoil.cli.inspection import events_of  # noqa: PLC0415
    from counterfoil.cli.output import out  # noqa: PLC0415

    events_of(path, state_folder(path, state)).transactions().abort(identity)
    out.print(f"{identity}: aborted, and its producer fenced", highlight=False, markup=False)
