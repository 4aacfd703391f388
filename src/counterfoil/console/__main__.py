"""Entry point of the supervised console: `python -m counterfoil.console KIND NAME TARGET …`."""

import sys
from pathlib import Path

import structlog

from counterfoil.console.server import application
from counterfoil.errors import CounterfoilError
from counterfoil.supervisor.host import enter


def main() -> int:
    """Serve until told to stop; exit code 1 asks the supervisor for another try."""
    _, name, target, folder, state = sys.argv[1:]
    try:
        host = enter(name, target, Path(folder), Path(state))
        host.serve(application(host), host.addresses.console)
    except CounterfoilError as error:
        structlog.get_logger().error("stopped", error=str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
