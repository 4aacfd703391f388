"""What several suites of the gateway stand on."""

import http.server
import threading
from collections.abc import Callable, Iterator

import pytest
from sharing import Service

from counterfoil.engines import RunningEngine


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128  # by default five: who connects when they stand there waits a second


@pytest.fixture(scope="module")
def service() -> Iterator[str]:
    """The address of a service that answers everything, with nothing."""
    server = Server(("127.0.0.1", 0), Service)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture
def redis(engine: Callable[[str], RunningEngine]) -> RunningEngine:
    """A real Redis, that of the whole session."""
    return engine("redis")
