"""PostgreSQL: services, outbox, ledger and pipeline state for the Kafka engine."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

from counterfoil.engines import packages
from counterfoil.engines.errors import EngineError, NotInstalled
from counterfoil.engines.server import HOST, Launch, Place, Server, Tell, write_private

USER = "counterfoil"
SYSTEM_USER = "postgres"
SETTINGS = {
    "listen_addresses": f"'{HOST}'",
    "unix_socket_directories": "''",
    "shared_buffers": "'64MB'",
    "max_connections": "100",
    "wal_level": "logical",
    "fsync": "on",
    "synchronous_commit": "on",
    "log_min_messages": "warning",
}


class Postgres(Server):
    """The newest `postgres` in Debian's directories or on the search path."""

    kind = "postgres"
    scheme = f"postgresql://{USER}@"
    path = "/postgres"
    stop_signal = signal.SIGINT  # fast shutdown: it does not wait for clients to disconnect

    def install(self, tell: Tell) -> None:
        if _programs() is None:
            packages.debian("pg_createcluster", "postgresql", tell)
        if _programs() is None:
            raise NotInstalled("postgres is missing", hint="apt-get install postgresql")

    def prepare(self, place: Place) -> Launch:
        programs = _programs()
        assert programs is not None, "installed before"
        user = SYSTEM_USER if os.geteuid() == 0 else ""
        data = place.folder / "data"
        if not (data / "PG_VERSION").exists():
            shutil.rmtree(data, ignore_errors=True)  # an initdb that was interrupted
            data.mkdir(mode=0o700)
            password = write_private(place.folder / "password", place.secret)
            if user:
                for path in (data, password):
                    shutil.chown(path, user)
            _initialise(programs, data, password, user)
            password.unlink()
        settings = [text for name, value in SETTINGS.items() for text in ("-c", f"{name}={value}")]
        settings = [text.replace("'", "") for text in settings]
        command = [str(programs / "postgres"), "-D", str(data), "-p", str(place.port), *settings]
        return Launch(command, user=user)

    def answers(self, place: Place) -> bool:
        programs = _programs()
        assert programs is not None, "it runs"
        asked = [str(programs / "pg_isready"), "-q", "-h", HOST, "-p", str(place.port)]
        return subprocess.run(asked, check=False).returncode == 0


def as_user(user: str) -> list[str]:
    """A command line prefix that drops root but keeps the right to reach the server's folder."""
    reach = "-all,+dac_read_search"
    ids = [f"--reuid={user}", f"--regid={user}", "--clear-groups"]
    return ["setpriv", *ids, f"--inh-caps={reach}", f"--ambient-caps={reach}"]


def _initialise(programs: Path, data: Path, password: Path, user: str) -> None:
    command = [
        *(as_user(user) if user else []),
        str(programs / "initdb"),
        *("-D", str(data), "-U", USER, "--auth=scram-sha-256", f"--pwfile={password}"),
        *("--encoding=UTF8", "--locale=C.UTF-8"),
    ]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd="/")
    if done.returncode:
        raise EngineError(f"initdb ended with {done.returncode}: {done.stderr.strip()}")


def _programs() -> Path | None:
    """The folder of `postgres`, `initdb` and `pg_isready`."""
    found = shutil.which("postgres")
    if found is not None:
        return Path(found).resolve().parent
    versions = Path("/usr/lib/postgresql").glob("*/bin/postgres")
    newest = sorted(versions, key=lambda path: int(path.parts[-3]))
    return newest[-1].parent if newest else None
