"""What every supervised process has: state folder, clock, stop signal, notifications."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Final

import msgspec
import structlog
from structlog.processors import ExceptionRenderer
from structlog.tracebacks import ExceptionDictTransformer

from counterfoil.application import (
    Application,
    Configuration,
    StateFolder,
    load,
    load_application,
)
from counterfoil.coordination import Client
from counterfoil.errors import CounterfoilError
from counterfoil.events import Events
from counterfoil.reports import Engine
from counterfoil.supervisor.engines import open_coordination, open_events, open_reports
from counterfoil.supervisor.plan import Addresses, last_addresses

LEASE_SECONDS = 3.0
"""How long a hung process keeps its registration and its leadership."""
TROUBLE_CHARACTERS: Final = 600
"""The limit of a message: as JSON it must fit into one atomic write to a pipe (4 KiB), or messages
could interleave."""


@dataclass(slots=True)
class Host:
    """The environment of one process."""

    name: str
    target: str
    folder: Path
    """The application's folder, as given on the command line."""
    application: Application
    configuration: Configuration
    state: StateFolder
    addresses: Addresses
    stop: threading.Event = field(default_factory=threading.Event)
    _coordination: Client | None = field(default=None, init=False)
    _detail: str = field(default="", init=False)

    def coordination(self) -> Client:
        """This process's client of the coordination engine; connects on first use."""
        if self._coordination is None:
            self._coordination = open_coordination(
                self.application.name, self.configuration, self.state, self.addresses
            )
        return self._coordination

    def events(self) -> Events:
        """The engine of events."""
        return open_events(
            self.application.name,
            self.configuration,
            self.state,
            self.addresses,
            self.application.all_topics(),
        )

    def reports(self) -> Engine:
        """The engine of reports; with Spark, it starts this process's own driver."""
        return open_reports(self.name, self.configuration, self.state, self.addresses)

    def ready(self, detail: str = "") -> None:
        """Tell the supervisor that this process is ready, with a new detail."""
        self._detail = detail
        self.trouble("")

    def trouble(self, said: str) -> None:
        """Tell the supervisor why this process makes no progress; "" when it does again."""
        told = msgspec.json.encode({"detail": self._detail, "trouble": said[:TROUBLE_CHARACTERS]})
        with suppress(BrokenPipeError):  # the supervisor has ended, and this process is about to
            os.write(int(os.environ["COUNTERFOIL_NOTIFY"]), told + b"\n")

    def serve(self, asgi: Any, address: str, on_ready: Callable[[], None] | None = None) -> None:
        """Serve an ASGI application in this process until it is stopped."""
        import asyncio  # noqa: PLC0415 - only the processes that listen need a server

        import uvloop  # noqa: PLC0415
        from granian.constants import Interfaces  # noqa: PLC0415
        from granian.server.embed import Server  # noqa: PLC0415

        host, _, port = address.rpartition(":")

        async def main() -> None:
            server = Server(
                asgi, host, int(port), interface=Interfaces.ASGI, log_enabled=False, backlog=1024
            )
            serving = asyncio.create_task(server.serve())
            while not serving.done():
                try:
                    _, writer = await asyncio.open_connection(host, int(port))
                except ConnectionRefusedError:
                    await asyncio.sleep(0.02)
                    continue
                writer.close()
                break
            if on_ready is not None:
                await asyncio.to_thread(on_ready)
            self.ready(address)
            stopped = asyncio.create_task(asyncio.to_thread(self.stop.wait))
            await asyncio.wait({serving, stopped}, return_when=asyncio.FIRST_COMPLETED)
            server.stop()
            await serving

        uvloop.run(main())


def now_us() -> int:
    """Wall-clock time in microseconds since 1970; the only place where processes read it."""
    return time.time_ns() // 1_000


def run_process(kinds: Mapping[str, Callable[[Host], None]]) -> int:
    """Run the supervised process of the command line: `KIND NAME TARGET FOLDER STATE`.

    Returns 1 on an error; the supervisor then restarts it.
    """
    kind, name, target, folder, state = sys.argv[1:]
    try:
        kinds[kind](enter(name, target, Path(folder), Path(state)))
    except CounterfoilError as error:
        structlog.get_logger().error("stopped", error=str(error))
        return 1
    return 0


def log_as_json() -> None:
    """Log each event as a line of JSON.

    Errors have tracebacks, but without the variables of frames, which contain request headers and
    passwords.
    """
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            ExceptionRenderer(ExceptionDictTransformer(show_locals=False)),
            structlog.processors.JSONRenderer(),
        ]
    )


def enter(name: str, target: str, folder: Path, state: Path) -> Host:
    """Set this process up as a supervised one: it stops on a signal, or with its supervisor."""
    configuration = load(folder)
    host = Host(
        name=name,
        target=target,
        folder=folder,
        application=load_application(folder, configuration.application.module),
        configuration=configuration,
        state=StateFolder(state),
        addresses=last_addresses(StateFolder(state)),
    )

    def stop(_number: int, _frame: FrameType | None) -> None:
        host.stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    lifeline = int(os.environ["COUNTERFOIL_LIFELINE"])

    def watch() -> None:
        os.read(lifeline, 1)  # returns when the last writer, the supervisor, has ended
        host.stop.set()

    threading.Thread(target=watch, name="lifeline", daemon=True).start()
    log_as_json()
    structlog.contextvars.bind_contextvars(process=name)
    return host
