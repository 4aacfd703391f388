"""A gateway that keeps certificates, for a test that kills it: `FOLDER PORT SETTINGS`."""

import sys
import threading
from pathlib import Path

import msgspec
from keeping import kept

from counterfoil.gateway.acme import Acme

folder, port, settings = sys.argv[1:]
with kept(Path(folder), int(port), msgspec.json.decode(settings, type=Acme)):
    threading.Event().wait(60)
