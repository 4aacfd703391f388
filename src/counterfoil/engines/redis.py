"""Redis: the shared state of the gateway's limits. Nothing is persisted; a restart empties it."""

import socket

from counterfoil.engines import packages
from counterfoil.engines.server import (
    CONNECT_SECONDS,
    HOST,
    Launch,
    Place,
    Server,
    Tell,
    write_private,
)

MEMORY = "64mb"


class Redis(Server):
    """`redis-server` from Debian."""

    kind = "redis"
    scheme = "redis://"
    path = "/0"

    def install(self, tell: Tell) -> None:
        packages.debian("redis-server", "redis-server", tell)

    def prepare(self, place: Place) -> Launch:
        configuration = (
            f"bind {HOST}\nport {place.port}\ndir {place.folder}\nrequirepass {place.secret}\n"
            f'maxmemory {MEMORY}\nmaxmemory-policy noeviction\nsave ""\nappendonly no\n'
        )
        file = write_private(place.folder / "redis.conf", configuration)
        return Launch(["redis-server", str(file)])

    def answers(self, place: Place) -> bool:
        try:
            with socket.create_connection((HOST, place.port), CONNECT_SECONDS) as connection:
                connection.settimeout(CONNECT_SECONDS)
                connection.sendall(f"AUTH {place.secret}\r\n".encode())
                return connection.recv(64).startswith(b"+OK")
        except OSError:
            return False
