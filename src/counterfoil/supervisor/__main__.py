"""Entry point of a supervised process: `python -m counterfoil.supervisor KIND NAME TARGET …`."""

import sys
from pathlib import Path

import structlog

from counterfoil.errors import CounterfoilError
from counterfoil.supervisor.host import enter
from counterfoil.supervisor.processes import KINDS


def main() -> int:
    """Run one process; exit code 1 asks the supervisor for another try."""
    kind, name, target, folder, state = sys.argv[1:]
    try:
        host = enter(name, target, Path(folder), Path(state))
        KINDS[kind](host)
    except CounterfoilError as error:
        structlog.get_logger().error("stopped", error=str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
