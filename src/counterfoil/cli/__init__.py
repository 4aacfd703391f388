"""The command line: `counterfoil up | status | prove | trace | events | new | token`."""

import sys
from collections.abc import Sequence

from counterfoil.errors import CounterfoilError


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; an error a user can act on is a message, not a traceback."""
    from counterfoil.cli.commands import app  # noqa: PLC0415 - `import counterfoil.cli` is cheap

    try:
        app(sys.argv[1:] if arguments is None else arguments)
    except CounterfoilError as error:
        sys.stderr.write(f"counterfoil: {error}\n")
        sys.exit(2)
