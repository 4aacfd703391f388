"""Entry point of a supervised process: `python -m counterfoil.supervisor KIND NAME TARGET …`."""

import sys

from counterfoil.supervisor.host import run_process
from counterfoil.supervisor.processes import KINDS

if __name__ == "__main__":
    sys.exit(run_process(KINDS))
