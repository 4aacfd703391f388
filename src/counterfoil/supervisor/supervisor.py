"""The supervisor: starts, watches, restarts and stops one application's processes."""

import asyncio
import os
import secrets
import signal
import sys
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

import msgspec

from counterfoil.application import (
    ENGINES_VARIABLE,
    OWN_SERVERS_VARIABLE,
    Application,
    Configuration,
    StateFolder,
    load,
    load_application,
)
from counterfoil.application.state import write_json
from counterfoil.engines import process_tree, send_signal, server
from counterfoil.engines.checks import Level
from counterfoil.errors import CounterfoilError
from counterfoil.events import Applied
from counterfoil.supervisor import folder_lock, guard
from counterfoil.supervisor.engines import (
    EngineRefused,
    check_clients,
    check_data,
    check_engines,
    hold_to,
    open_events,
    write_engines,
)
from counterfoil.supervisor.forking import Forked, ForkServer
from counterfoil.supervisor.migrating import migrate_services
from counterfoil.supervisor.plan import (
    Addresses,
    ProcessPlan,
    assign_addresses,
    last_addresses,
    plan,
)

START_SECONDS: Final = 60.0
"""A Spark driver alone needs 10 s on an idle machine, and several start at once."""
ENGINE_START_SECONDS: Final = 600.0
"""An external engine may have to be downloaded or built first."""
STOP_SECONDS: Final = 8.0
KILLED_SECONDS: Final = 2.0
"""For a killed process to end. One in uninterruptible sleep doesn't end, and is left to the guard,
which names it."""
BACKOFF_SECONDS: Final = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
STABLE_SECONDS: Final = 10.0
"""A process that lived this long resets its backoff."""
NOTIFIED_BYTES: Final = 65_536
"""Read at once of a process's notifications: a pipe's whole capacity."""
PRELOADED: Final = (
    "counterfoil.supervisor.processes",
    "counterfoil.application.web",
    "granian.server.embed",
    "uvloop",
)
"""Modules that most processes need and that start no thread."""


class DidNotStart(CounterfoilError):
    """A process was not ready in time; everything started was stopped again."""


@dataclass(slots=True)
class Child:
    """One process as the supervisor sees it."""

    plan: ProcessPlan
    state: str = "waiting"
    detail: str = ""
    trouble: str = ""
    """Why the running process makes no progress; empty if it does."""
    notified: int | None = None
    """The read end of the running process's notification pipe."""
    restarts: int = 0
    since: float = 0.0
    process: Forked | None = None
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    may_run: asyncio.Event = field(default_factory=asyncio.Event)
    """Cleared while its restart is suppressed."""

    @property
    def pid(self) -> int | None:
        """The process id, or None while there is no process."""
        if self.process is None or self.process.returncode is not None:
            return None
        return self.process.pid


class Supervisor:
    """Runs the application in `folder` with its state in `state`.

    Raises (from `run`):
        ConfigurationError, AddressInUse, AlreadyRunning, DidNotStart, EngineRefused, EventsError,
            ReportsError: no process is left running.
    """

    def __init__(
        self,
        folder: Path,
        state: Path,
        *,
        free_ports: bool = False,
        engines: str = "",
        only_engines: bool = False,
        own_servers: bool = False,
        environment: dict[str, str] | None = None,
        on_change: Callable[[Sequence[Child]], None] = lambda _: None,
    ) -> None:
        self.folder = folder.resolve()
        self.state = StateFolder(state.resolve())
        self.children: list[Child] = []
        self.addresses: Addresses | None = None
        self.loaded: tuple[Application, Configuration] | None = None
        """The application and its configuration, as read at start."""
        self.migrated: dict[str, list[Applied]] = {}
        """The migrations applied by this start, by service."""
        self.up = asyncio.Event()
        self._free_ports = free_ports
        self._engines = engines
        self._only_engines = only_engines
        self._own_servers = own_servers or _has_own_servers(self.state)
        self._environment = {
            **(environment or {}),
            ENGINES_VARIABLE: engines,
            OWN_SERVERS_VARIABLE: "1" if self._own_servers else "",
        }
        self._on_change = on_change
        self._run = secrets.token_hex(16)
        self._stopping = asyncio.Event()

    async def take_down(self, engine: str) -> None:
        """Kill every server of an external engine, and keep them down."""
        for child in self._servers(engine):
            child.may_run.clear()
            child.ready.clear()
            if child.process is not None and child.pid is not None:
                for pid in process_tree(child.pid):
                    send_signal(pid, signal.SIGKILL)
                await child.process.wait()

    async def bring_back(self, engine: str) -> None:
        """Start the servers of an external engine again, and wait until they are ready."""
        for child in self._servers(engine):
            child.may_run.set()
        for child in self._servers(engine):
            await self._ready(child)

    def _servers(self, engine: str) -> list[Child]:
        return [child for child in self.children if child.plan.engine == engine]

    def stop(self) -> None:
        """Request an orderly stop; `run` returns when everything has ended."""
        self._stopping.set()

    async def started(self, running: "asyncio.Task[None]") -> bool:
        """Wait until everything is ready, or until `running`, the task of `run`, has ended.

        Raises what prevented the start; returns False if it was stopped before it was up.
        """
        waiting = asyncio.create_task(self.up.wait())
        await asyncio.wait((running, waiting), return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if running.done():
            await running
        return self.up.is_set()

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None, None]:
        """Run while the block does; the block begins when everything is ready.

        Raises what prevented the start.
        """
        task = asyncio.create_task(self.run())
        try:
            await self.started(task)
            yield
        finally:
            self.stop()
            await asyncio.gather(task, return_exceptions=True)

    def console_address(self) -> str:
        """The console's URL; its key is in the fragment, which browsers never send to servers."""
        assert self.addresses is not None, "known once it runs"
        return f"http://{self.addresses.console}/#key={self.state.credential()}"

    async def run(self) -> None:
        """Start everything in order, keep it running, and stop it in reverse order."""
        configuration = load(self.folder, engines=self._engines, own_servers=self._own_servers)
        application = load_application(self.folder, configuration.application.module)
        self.loaded = application, configuration
        _check_reports(application)
        check_clients(configuration)
        processes = plan(application, configuration)
        with folder_lock.opened(self.state) as lock:
            await folder_lock.take(lock, self.state)
            self.addresses = assign_addresses(
                configuration,
                processes,
                free_ports=self._free_ports,
                chosen=self._engines,
                own_servers=self._own_servers,
            )
            self.state.credential()
            if not self._only_engines:
                hold_to(self.state, configuration.engines)
                write_engines(self.state, configuration.engines)
            write_json(self.state.addresses, msgspec.to_builtins(self.addresses))
            async with self._guarded(lock) as lifeline:
                await self._supervise(application, configuration, processes, lifeline)

    @asynccontextmanager
    async def _guarded(self, lock: IO[str]) -> AsyncGenerator[int, None]:
        """Yields the lifeline for all processes, watched by a guard.

        No process is left when this block ends, even if the supervisor is killed in it; the guard
        holds the lock until then.
        """
        reading, writing = os.pipe()
        with os.fdopen(reading), os.fdopen(writing, "wb") as lifeline:
            watching = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", guard.__file__, self._run),
                stdin=reading,
                stdout=asyncio.subprocess.DEVNULL,
                start_new_session=True,
                pass_fds=(lock.fileno(),),
                # This supervisor may itself belong to a run, whose guard must not end this one.
                env={name: value for name, value in os.environ.items() if name != guard.VARIABLE},
            )
            try:
                yield reading
            finally:
                lifeline.close()
                await watching.wait()

    async def _supervise(
        self,
        application: Application,
        configuration: Configuration,
        processes: list[ProcessPlan],
        lifeline: int,
    ) -> None:
        self.children = [Child(process) for process in processes]
        for child in self.children:
            child.may_run.set()
        keepers: list[asyncio.Task[None]] = []
        environment = {**os.environ, **self._environment, guard.VARIABLE: self._run}
        forks = ForkServer(PRELOADED, environment, self.state.process_log("fork-server"))
        try:
            for foundation in (True, False):
                stage = [child for child in self.children if child.plan.foundation == foundation]
                keepers += [
                    asyncio.create_task(self._keep(child, forks, lifeline)) for child in stage
                ]
                for child in stage:
                    await self._ready(child)
                if self._stopping.is_set():
                    return
                if foundation:
                    await self._check(application, configuration)
                    if self._only_engines:
                        break
            self.up.set()
            await self._stopping.wait()
        finally:
            self._stopping.set()
            for child in self.children:
                child.may_run.set()
            for child in reversed(self.children):
                await self._end(child)
            await self._end_keepers(keepers)
            await forks.close()
            for child in self.children:
                if child.notified is not None:  # its last notifications were not read
                    _close_notified(child, child.notified)
            self._changed()

    async def _end_keepers(self, keepers: list[asyncio.Task[None]]) -> None:
        """Let the keepers see their processes end, within a time limit."""
        if keepers:
            _, waiting = await asyncio.wait(keepers, timeout=KILLED_SECONDS)
            for keeper in waiting:
                keeper.cancel()
            await asyncio.gather(*keepers, return_exceptions=True)

    async def _ready(self, child: Child) -> None:
        limit = ENGINE_START_SECONDS if child.plan.engine else START_SECONDS
        ready = asyncio.create_task(child.ready.wait())
        stopping = asyncio.create_task(self._stopping.wait())
        done, waiting = await asyncio.wait(
            {ready, stopping}, timeout=limit, return_when=asyncio.FIRST_COMPLETED
        )
        for task in waiting:
            task.cancel()
        if not done:
            path = self.state.process_log(child.plan.name)
            lines = path.read_text(errors="replace").splitlines()[-3:]
            raise DidNotStart(
                f"{child.plan.name} was not ready after {limit:.0f} s\n" + "\n".join(lines),
                hint=f"its whole output is in {path}",
            )

    async def _check(self, application: Application, configuration: Configuration) -> None:
        """Refuse engines and data that would break a guarantee, before anything uses them."""
        assert self.addresses is not None, "addresses are assigned before anything starts"
        found = await asyncio.to_thread(
            check_engines, configuration, self.state, self.addresses, time.time()
        )
        broken = [finding for finding in found if finding.level is Level.BREAKS]
        if broken:
            raise EngineRefused(
                "\n".join(
                    f"{each.engine}: {each.setting} is {each.found}, needed: {each.needed}"
                    for each in broken
                ),
                hint="; ".join(dict.fromkeys(each.remedy for each in broken)),
            )
        if not self._only_engines:
            await asyncio.to_thread(
                check_data, application, configuration, self.state, self.addresses
            )
            events = open_events(application.name, configuration, self.state, self.addresses)
            self.migrated = await asyncio.to_thread(migrate_services, application, events)

    async def _keep(self, child: Child, forks: ForkServer, lifeline: int) -> None:
        failures = 0
        while not self._stopping.is_set():
            started = time.monotonic()
            await self._start(child, forks, lifeline)
            assert child.process is not None
            code = await child.process.wait()
            child.ready.clear()
            if self._stopping.is_set():
                break
            failures = 0 if time.monotonic() - started > STABLE_SECONDS else failures
            delay = BACKOFF_SECONDS[min(failures, len(BACKOFF_SECONDS) - 1)]
            failures += 1
            child.restarts += 1
            await child.may_run.wait()
            path = self.state.process_log(child.plan.name)
            why = f"ended with {code}, again in {delay} s; see {path}"
            self._mark(child, "restarting", why)
            try:
                await asyncio.wait_for(self._stopping.wait(), delay)
            except TimeoutError:
                continue
        self._mark(child, "stopped", "")

    async def _start(self, child: Child, forks: ForkServer, lifeline: int) -> None:
        reading, notify = os.pipe()
        name = child.plan.name
        try:
            with self.state.process_log(name).open("ab") as output:
                child.process = await forks.fork(
                    name,
                    *self._command(child.plan),
                    output.fileno(),
                    {"COUNTERFOIL_NOTIFY": notify, "COUNTERFOIL_LIFELINE": lifeline},
                )
        finally:
            os.close(notify)
        child.since = time.time()
        self._mark(child, "starting", "")
        loop = asyncio.get_running_loop()

        child.notified = reading

        def notified() -> None:
            lines = os.read(reading, NOTIFIED_BYTES).splitlines()
            if not lines:  # the process has ended
                _close_notified(child, reading)
            elif child.notified == reading and child.state in {"starting", "ready"}:
                message: dict[str, Any] = msgspec.json.decode(lines[-1])
                child.ready.set()
                self._mark(child, "ready", message["detail"], message.get("trouble", ""))

        loop.add_reader(reading, notified)

    def _command(self, plan: ProcessPlan) -> tuple[str, list[str]]:
        """A process's module and arguments."""
        if not plan.engine:
            arguments = [plan.kind, plan.name, plan.target, str(self.folder), str(self.state.root)]
            return plan.module, arguments
        assert self.addresses is not None, "addresses are assigned before anything starts"
        address = self.addresses.engines[plan.engine]
        port = str(self.addresses.servers[plan.name])
        files = [str(self.state.engine(plan.name)), port, str(self.state.credential_file)]
        return "counterfoil.engines", [plan.kind, *files, address]

    async def _end(self, child: Child) -> None:
        process = child.process
        if process is None or process.returncode is not None:
            return
        self._mark(child, "stopping", "")
        plan = child.plan
        process.send_signal(server(plan.kind).stop_signal if plan.engine else signal.SIGTERM)
        for pid in process_tree(process.pid):  # a paused process must continue to handle it
            send_signal(pid, signal.SIGCONT)
        try:
            await asyncio.wait_for(process.wait(), STOP_SECONDS)
        except TimeoutError:
            process.kill()
            with suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), KILLED_SECONDS)

    def _mark(self, child: Child, state: str, detail: str, trouble: str = "") -> None:
        child.state, child.detail, child.trouble = state, detail, trouble
        self._changed()

    def _changed(self) -> None:
        write_json(
            self.state.run,
            {
                "pid": os.getpid(),
                "folder": str(self.folder),
                "processes": [
                    {
                        "name": child.plan.name,
                        "kind": child.plan.kind,
                        "pid": child.pid,
                        "state": child.state,
                        "restarts": child.restarts,
                        "since": child.since,
                        "detail": child.detail,
                        "trouble": child.trouble,
                    }
                    for child in self.children
                ],
            },
        )
        self._on_change(self.children)


def _has_own_servers(state: StateFolder) -> bool:
    """Whether the last run ignored `[addresses]`, so that its servers' data is in the folder."""
    return state.addresses.exists() and last_addresses(state).own_servers


def _check_reports(application: Application) -> None:
    """Refuse reports that would fail at each run, and proofs of what doesn't exist."""
    from counterfoil.reports.query import checked  # noqa: PLC0415 - heavy

    columns = {
        report.name: {name: query.named_selects for name, query in checked(report).items()}
        for report in application.reports.values()
    }
    if application.counterfoils is not None:
        application.counterfoils.check(columns)


def _close_notified(child: Child, reading: int) -> None:
    """Close the notification pipe of a process of `child`."""
    asyncio.get_running_loop().remove_reader(reading)
    os.close(reading)
    if child.notified == reading:
        child.notified = None
