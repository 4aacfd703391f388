"""The command line: `counterfoil up | status | prove | trace | events | gateway | engines | ...`.

Exit codes are the same everywhere: 0 for done, 1 where the answer is no (not ready, not found, does
not hold), 2 where a command could not run; 128 and a signal's number if one cut it short.
"""

import os
import signal
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
    except BrokenPipeError:
        # Whoever read it has seen enough (`| head`); the interpreter must not flush into it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
