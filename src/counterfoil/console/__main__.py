"""Entry point of the supervised console: `python -m counterfoil.console KIND NAME TARGET …`."""

import sys

from counterfoil.console.server import console
from counterfoil.supervisor.host import run_process

if __name__ == "__main__":
    sys.exit(run_process({"console": console}))
