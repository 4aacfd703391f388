"""What a kind of server needs: installation, command line, readiness check."""

import signal
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Final

HOST: Final = "127.0.0.1"
CONNECT_SECONDS: Final = 1.0
Tell = Callable[[str], None]
"""Called with a line of text before each step that takes long."""


@dataclass(frozen=True, slots=True)
class Place:
    """One server's folder, its port on loopback, and its secret."""

    folder: Path
    port: int
    secret: str
    target: str = ""
    """The address of another server it depends on, such as a worker's master."""


@dataclass(frozen=True, slots=True)
class Launch:
    """How a server's process is started."""

    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    user: str = ""
    """The user that replaces root, for servers that refuse to run as root."""


class Server(ABC):
    """One kind of server."""

    kind: str
    scheme: str = ""
    path: str = ""
    stop_signal: signal.Signals = signal.SIGTERM
    start_seconds: float = 60.0

    def address(self, port: int) -> str:
        """The address for clients."""
        return f"{self.scheme}{HOST}:{port}{self.path}"

    @abstractmethod
    def install(self, tell: Tell) -> None:
        """Install what is missing.

        Raises:
            NotInstalled: says what is missing and how to get it.
        """

    @abstractmethod
    def prepare(self, place: Place) -> Launch:
        """Prepare the server's folder and return its command; secrets stay in files."""

    def answers(self, place: Place) -> bool:
        """Whether the server is ready."""
        return accepts(place.port)


def accepts(port: int) -> bool:
    """Whether a port on loopback accepts connections."""
    try:
        socket.create_connection((HOST, port), timeout=CONNECT_SECONDS).close()
    except OSError:
        return False
    return True


def write_private(path: Path, text: str) -> Path:
    """Write a file that only its owner can read."""
    path.touch(mode=0o600)
    path.write_text(text)
    return path


KINDS: Final = MappingProxyType(
    {
        "redis": "redis:Redis",
        "postgres": "postgres:Postgres",
        "kafka": "kafka:Kafka",
        "secured-kafka": "secured_kafka:SecuredKafka",
        "etcd": "etcd:Etcd",
        "registry": "registry:Registry",
        "spark-master": "spark:SparkMaster",
        "spark-worker": "spark:SparkWorker",
    }
)


def server(kind: str) -> Server:
    """The server of this kind.

    Raises:
        KeyError: there is no such kind.
    """
    module, _, name = KINDS[kind].partition(":")
    found: Server = getattr(import_module(f"counterfoil.engines.{module}"), name)()
    return found
