"""The processes of an application, in the order of their start."""

import socket
from dataclasses import dataclass, field
from typing import Final

import msgspec

from counterfoil.application import (
    Application,
    Configuration,
    ConfigurationError,
    StateFolder,
)
from counterfoil.engines import ENGINES, free_port, server
from counterfoil.engines.server import HOST
from counterfoil.errors import CounterfoilError
from counterfoil.events import EventsError, KafkaEvents

START: Final = "start the application: counterfoil up PATH"
"""The hint for a command that needs a running application, or one that has run."""


class AddressInUse(CounterfoilError):
    """A configured port is taken by another process."""


@dataclass(frozen=True, slots=True)
class ProcessPlan:
    """One process: its unique name, its kind, and the target of that kind."""

    name: str
    kind: str
    target: str = ""
    module: str = "counterfoil.supervisor"
    """The module to run; the console depends on the supervisor and has its own."""
    engine: str = ""
    """The external engine that it is a server of."""

    @property
    def foundation(self) -> bool:
        """Whether other processes need it as soon as they start, so that it must be ready first."""
        return bool(self.engine) or self.kind == "coordination"


class Addresses(msgspec.Struct, frozen=True):
    """The `host:port` of every listener, fixed for a run so that restarts keep it."""

    coordination: str
    gateway: str
    admin: str
    console: str
    issuer: str = ""
    services: dict[str, str] = field(default_factory=dict[str, str])
    """By process, of services and hooks."""
    chosen: str = ""
    """The engines chosen on the command line, which override the configuration's."""
    own_servers: bool = False
    """Whether servers are started here instead of using those of the configuration."""
    engines: dict[str, str] = field(default_factory=dict[str, str])
    """The address of each external engine in use, for its clients."""
    servers: dict[str, int] = field(default_factory=dict[str, int])
    """The port of each external engine's server started here, by process."""
    free_ports: bool = False
    """Whether free ports replace the configured addresses."""


def last_addresses(state: StateFolder) -> Addresses:
    """The addresses of an application's last run, which may still be running.

    Raises:
        CounterfoilError: it never ran.
    """
    try:
        return msgspec.json.decode(state.addresses.read_bytes(), type=Addresses)
    except FileNotFoundError:
        raise CounterfoilError(f"nothing has run in {state.root}", hint=START) from None


def real_engines(configuration: Configuration) -> list[str]:
    """The external engines that an application's parts need."""
    chosen = configuration.engines
    found: list[str] = []
    if chosen.coordination == "etcd":
        found.append("etcd")
    if chosen.events == "kafka":
        found += ["postgres", "kafka"]
    if chosen.schemas == "registry":
        found.append("registry")
    if chosen.limits == "redis":
        found.append("redis")
    if chosen.reports == "spark":
        found.append("spark")
    return found


def configured_engines(configuration: Configuration) -> dict[str, str]:
    """The external engines in use that have a configured address; they are not started here."""
    found = {name: getattr(configuration.addresses, name) for name in real_engines(configuration)}
    return {name: address for name, address in found.items() if address}


def plan(application: Application, configuration: Configuration) -> list[ProcessPlan]:
    """The processes in the order of starting; they stop in reverse order.

    Raises:
        ConfigurationError: the configuration names something undeclared, or gives a pipeline more
            processes than it can have.
    """
    _check(application, configuration)
    processes = [
        ProcessPlan(kind if kinds.count(kind) == 1 else f"{kind}-{number}", kind, engine=engine)
        for engine in real_engines(configuration)
        if not getattr(configuration.addresses, engine)
        for kinds in [ENGINES[engine]]
        for number, kind in enumerate(kinds)
    ]
    if configuration.engines.coordination == "embedded":
        processes.append(ProcessPlan("coordination", "coordination"))
    if configuration.issuer is not None:
        processes.append(ProcessPlan("issuer", "issuer"))
    for service, settings in configuration.services.items():
        processes += [
            ProcessPlan(f"{service}-{number}", "service", service)
            for number in range(1, settings.instances + 1)
        ]
    sources = list(configuration.services)
    if configuration.engines.events == "kafka":
        sources.append(KafkaEvents.PIPELINES)
    for source in sources:
        processes += [ProcessPlan(f"relay-{source}-{number}", "relay", source) for number in (1, 2)]
    for name in application.pipelines:
        number = pipeline_processes(configuration, name)
        processes += [
            ProcessPlan(
                f"pipeline-{name}" if number == 1 else f"pipeline-{name}-{each}", "pipeline", name
            )
            for each in range(1, number + 1)
        ]
    processes += [
        ProcessPlan(f"parallel-{name}", "parallel", name) for name in application.parallels
    ]
    processes += [ProcessPlan(f"tasks-{name}", "tasks", name) for name in application.queues]
    for name in application.sagas:
        processes += [ProcessPlan(f"saga-{name}-{number}", "saga", name) for number in (1, 2)]
    processes += [
        ProcessPlan(f"choreography-{name}", "choreography", name)
        for name in application.choreographies
    ]
    kept = [topic for topic in application.all_topics() if topic.retention_seconds is not None]
    if kept and configuration.engines.events == "embedded":
        processes.append(ProcessPlan("retention", "retention"))
    if application.stores:
        processes.append(ProcessPlan("lake", "lake"))
    if application.reports:
        processes.append(ProcessPlan("reports", "reports"))
    processes += [
        ProcessPlan(name, "hook", hook)
        for hook in configuration.gateway.hooks
        for name in hook_processes(configuration, hook)
    ]
    processes.append(ProcessPlan("console", "console", module="counterfoil.console"))
    processes.append(ProcessPlan("gateway", "gateway"))
    return processes


def pipeline_processes(configuration: Configuration, pipeline: str) -> int:
    """The number of a pipeline's processes."""
    settings = configuration.pipelines.get(pipeline)
    embedded = configuration.engines.events == "embedded"
    return 1 if settings is None or embedded else settings.processes


def _check(application: Application, configuration: Configuration) -> None:
    for kind, configured, declared in (
        ("service", configuration.services, application.services),
        ("hook", configuration.gateway.hooks, application.hooks),
        ("pipeline", configuration.pipelines, application.pipelines),
    ):
        for name in configured:
            if name not in declared:
                raise ConfigurationError(
                    f"the application {application.name} declares no {kind} {name!r}",
                    hint=f"declare it with app.{kind}({name!r}), or take it out of the file",
                )
    for name in application.services:
        if name not in configuration.services:
            raise ConfigurationError(
                f"the application {application.name} declares the service {name!r}, which nothing "
                "would run",
                hint=f"add [services.{name}] to counterfoil.toml",
            )
    for name, settings in configuration.pipelines.items():
        try:
            application.pipelines[name].check_processes(settings.processes)
        except EventsError as error:
            raise ConfigurationError(str(error.args[0]), hint=error.hint) from error


def hook_processes(configuration: Configuration, hook: str) -> list[str]:
    """The names of a hook's processes."""
    number = configuration.gateway.hooks[hook].processes
    return [f"hook-{hook}-{each}" for each in range(1, number + 1)]


def assign_addresses(
    configuration: Configuration,
    processes: list[ProcessPlan],
    *,
    free_ports: bool,
    chosen: str = "",
    own_servers: bool = False,
) -> Addresses:
    """Fix the address of every listener: the configured one, or a free port on loopback, for which
    the development certificate is valid.

    Raises:
        AddressInUse: names the address and the setting.
    """

    def listening(setting: str, address: str) -> str:
        if free_ports:
            return _bindable(setting, HOST, free_port())
        host, _, port = address.rpartition(":")
        return _bindable(setting, host, int(port))

    servers = {process.name: free_port() for process in processes if process.engine}
    engines = configured_engines(configuration)
    for process in processes:
        if process.kind in ENGINES.get(process.engine, ())[:1]:
            engines[process.engine] = server(process.kind).address(servers[process.name])
    embedded = any(process.kind == "coordination" for process in processes)
    return Addresses(
        coordination=listening("coordination.listen", configuration.coordination.listen)
        if embedded
        else "",
        issuer=listening("issuer.listen", configuration.issuer.listen)
        if configuration.issuer
        else "",
        gateway=listening("gateway.listen", configuration.gateway.listen),
        admin=listening("gateway.admin", configuration.gateway.admin),
        console=listening("console.listen", configuration.console.listen),
        services={
            process.name: f"{HOST}:{free_port()}"
            for process in processes
            if process.kind in {"service", "hook"}
        },
        chosen=chosen,
        own_servers=own_servers and bool(engines),
        engines=engines,
        servers=servers,
        free_ports=free_ports,
    )


def _bindable(setting: str, host: str, port: int) -> str:
    family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host.strip("[]"), port))
        except OSError as error:
            raise AddressInUse(
                f"{setting} = {host}:{port} can't be used: {error.strerror}",
                hint=f"stop what listens there, or set another {setting} in counterfoil.toml",
            ) from error
        return f"{host}:{probe.getsockname()[1]}"
