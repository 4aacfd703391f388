"""Becomes a server: `python -m counterfoil.engines KIND FOLDER PORT CREDENTIAL_FILE [TARGET]`.

The process prepares the server's folder and then becomes the server (`exec`), so that its parent
has the server's own process id and can signal it directly. Before that it forks a watcher, which
notifies the parent once the server is ready (`COUNTERFOIL_NOTIFY`, a file descriptor) and ends. The
server is killed when the thread that started it ends.
"""

import json
import os
import sys
import time
from pathlib import Path

from counterfoil.engines.errors import EngineError
from counterfoil.engines.postgres import as_user
from counterfoil.engines.server import Place, Server, server

POLL_SECONDS = 0.1


def main(arguments: list[str]) -> int:
    """Become the server; returns only if it can't be started."""
    kind, folder, port, credential_file, *target = arguments
    found = server(kind)
    place = Place(
        Path(folder), int(port), Path(credential_file).read_text().strip(), "".join(target)
    )
    place.folder.mkdir(parents=True, exist_ok=True)
    try:
        found.install(lambda line: print(line, file=sys.stderr, flush=True))  # noqa: T201
        launch = found.prepare(place)
    except EngineError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    _leave_watcher(found, place, os.getpid())
    command = [
        *(as_user(launch.user) if launch.user else ["setpriv"]),
        *("--pdeathsig", "KILL", *launch.command),
    ]
    environment = {**os.environ, **launch.environment}
    environment.pop("COUNTERFOIL_NOTIFY", None)
    os.chdir(place.folder)
    os.execvpe(command[0], command, environment)  # noqa: S606 - this is what it is for


def _leave_watcher(found: Server, place: Place, pid: int) -> None:
    """Fork twice, so that the watcher is not a child of the server."""
    if (child := os.fork()) > 0:
        os.waitpid(child, 0)
        return
    if os.fork() > 0:
        os._exit(0)
    while Path(f"/proc/{pid}").exists():
        if found.answers(place):
            notify = os.environ.get("COUNTERFOIL_NOTIFY")
            if notify is not None:
                detail = {"ready": True, "detail": found.address(place.port)}
                os.write(int(notify), json.dumps(detail).encode() + b"\n")
            break
        time.sleep(POLL_SECONDS)
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
