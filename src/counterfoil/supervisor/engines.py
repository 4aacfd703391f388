"""Opens and checks the engines of an application's configuration."""

import importlib.util
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from counterfoil.application import (
    Application,
    Configuration,
    EnginesConfig,
    StateFolder,
    load,
)
from counterfoil.application.state import write_json
from counterfoil.coordination import Client, EmbeddedClient, EtcdClient
from counterfoil.engines.checks import Finding, check, check_decoding, check_kafka, checkable
from counterfoil.errors import CounterfoilError
from counterfoil.events import (
    ConfluentRegistry,
    EmbeddedEvents,
    EmbeddedRegistry,
    Events,
    EventsError,
    KafkaEvents,
)
from counterfoil.events.kafka import KafkaLog
from counterfoil.events.topics import AnyTopic
from counterfoil.kafka_access import KEY_PASSWORD, PASSWORD, KafkaAccess
from counterfoil.reports import Embedded, Engine, Lake, check_tables
from counterfoil.supervisor.plan import Addresses, last_addresses


class EngineRefused(CounterfoilError):
    """An external engine can't be used as it is; everything started was stopped again."""


_PASSWORDS = {
    "redis": "REDIS_PASSWORD",
    "etcd": "ETCD_PASSWORD",
    "registry": "REGISTRY_PASSWORD",
}


_EXTRAS: Final = (
    ("events", "kafka", "kafka", ("confluent_kafka", "psycopg")),
    ("reports", "spark", "spark", ("pyspark",)),
    ("schemas", "registry", "registry", ("confluent_kafka",)),
)
"""Part, engine, the extra that installs the engine's clients, and the clients' modules."""


def check_clients(configuration: Configuration) -> None:
    """Refuse engines whose clients are missing, before any server is downloaded or started.

    Raises:
        EngineRefused: names the package, and the extra that installs it.
    """
    for part, engine, extra, modules in _EXTRAS:
        if getattr(configuration.engines, part) != engine:
            continue
        for module in modules:
            if importlib.util.find_spec(module) is None:
                raise EngineRefused(
                    f'[engines] {part} = "{engine}" needs the package {module}',
                    hint=f"install counterfoil[{extra}]",
                )


def secret(engine: str, configuration: Configuration, state: StateFolder) -> str | None:
    """An engine's password: the application's own secret if the engine was started here.

    None leaves it to the client: libpq reads passwords from other places, too.
    """
    if not getattr(configuration.addresses, engine):
        return state.credential()
    return os.environ.get(_PASSWORDS.get(engine, ""))


def kafka_access(configuration: Configuration, addresses: Addresses) -> KafkaAccess:
    """How to connect to Kafka; a broker started here needs no credentials."""
    servers, settings = addresses.engines["kafka"], configuration.kafka
    if not configuration.addresses.kafka:
        return KafkaAccess(servers)
    return KafkaAccess(
        servers,
        settings.protocol,
        settings.mechanism,
        settings.user,
        password=os.environ.get(PASSWORD, ""),
        ca=Path(settings.ca) if settings.ca else None,
        certificate=Path(settings.certificate) if settings.certificate else None,
        key=Path(settings.key) if settings.key else None,
        key_password=os.environ.get(KEY_PASSWORD, ""),
    )


def written_engines(state: StateFolder) -> EnginesConfig | None:
    """The engines that hold an application's data, or None if it never ran."""
    try:
        return msgspec.json.decode(state.engines.read_bytes(), type=EnginesConfig)
    except FileNotFoundError:
        return None


def last_configuration(folder: Path, state: StateFolder) -> Configuration:
    """The configuration of the application in `folder`, with the engines of its last run.

    Raises:
        CounterfoilError: it never ran in `state`, or the configured engines don't hold its data
            (`hold_to`): commands would act where nothing runs.
    """
    last = last_addresses(state)
    configuration = load(folder, engines=last.chosen, own_servers=last.own_servers)
    hold_to(state, configuration.engines)
    return configuration


def hold_to(state: StateFolder, engines: EnginesConfig) -> None:
    """Refuse engines that don't hold the data of the last run: they would seem empty.

    Raises:
        EngineRefused: names the part, and where its data is.
    """
    written = written_engines(state) or engines
    for part in ("events", "coordination"):
        old, new = getattr(written, part), getattr(engines, part)
        if old != new:
            differing = _differing(written, engines)
            carried = f"carry them over with `counterfoil move --engines {differing}`"
            kept = f'set {part} = "{old}" under [engines], or take a new folder with --state'
            raise EngineRefused(
                f"{state.root} holds {part} on {old}, not on {new}",
                hint=carried if old == "embedded" else kept,
            )
    if written.schemas == "registry" != engines.schemas:
        raise EngineRefused(
            f"{state.root} holds events whose schemas are in a registry",
            hint="start it with --engines schemas=registry, or a new folder with --state",
        )


def _differing(written: EnginesConfig, engines: EnginesConfig) -> str:
    """All parts that one move has to carry over."""
    return ",".join(
        f"{part}={getattr(engines, part)}"
        for part in ("events", "coordination")
        if getattr(written, part) != getattr(engines, part)
    )


def write_engines(state: StateFolder, engines: EnginesConfig) -> None:
    """Record which engines hold the data from now on."""
    write_json(state.engines, msgspec.to_builtins(engines))


def open_coordination(
    name: str, configuration: Configuration, state: StateFolder, addresses: Addresses
) -> Client:
    """A client of coordination for the application `name`; not yet connected."""
    if configuration.engines.coordination == "etcd":
        password = os.environ.get(_PASSWORDS["etcd"], "")
        return EtcdClient(addresses.engines["etcd"], name, password=password)
    return EmbeddedClient(f"http://{addresses.coordination}", state.credential())


def open_events(
    name: str,
    configuration: Configuration,
    state: StateFolder,
    addresses: Addresses,
    topics: Iterable[AnyTopic] | None = None,
) -> Events:
    """The events of the application `name`; not yet connected.

    Running pipelines need the declared `topics`: they may send to no others.
    """
    registry = None
    if configuration.engines.schemas == "registry":
        ca = configuration.registry.ca
        registry = ConfluentRegistry(
            addresses.engines["registry"],
            secret("registry", configuration, state),
            name,
            ca=Path(ca) if ca else None,
        )
    if configuration.engines.events == "embedded":
        return EmbeddedEvents(state.root, registry=registry)
    password = secret("postgres", configuration, state)
    return KafkaEvents(
        kafka_access(configuration, addresses),
        addresses.engines["postgres"],
        password,
        application=name,
        outbox_from=configuration.events.outbox,
        registry=registry,
        topics=topics,
    )


def open_reports(
    process: str, configuration: Configuration, state: StateFolder, addresses: Addresses
) -> Engine:
    """The engine of reports for one process; with Spark, a driver is started.

    Raises:
        ReportsError: Spark is missing, or does not start.
    """
    if configuration.engines.reports == "embedded":
        return Embedded()
    from counterfoil.engines.spark import delta_jars  # noqa: PLC0415
    from counterfoil.reports.driver import Driver  # noqa: PLC0415
    from counterfoil.reports.spark import Spark  # noqa: PLC0415

    lock = state.lake / f".{process}.lock"
    name = f"counterfoil {process}"
    return Spark(Driver(addresses.engines["spark"], name=name, lock=lock, jars=delta_jars()))


def check_engines(
    configuration: Configuration, state: StateFolder, addresses: Addresses, now: float
) -> list[Finding]:
    """What would break or weaken a guarantee; `now` is in seconds since 1970."""
    findings = [
        finding
        for engine, address in addresses.engines.items()
        if engine in checkable - {"kafka"}
        for finding in check(engine, address, secret(engine, configuration, state), now)
    ]
    if "kafka" in addresses.engines:
        findings += check_kafka(kafka_access(configuration, addresses))
    if configuration.events.outbox == "log" and (address := addresses.engines.get("postgres")):
        password = secret("postgres", configuration, state)
        sources = len(configuration.services) + 1  # one more for the pipelines' events
        findings += check_decoding(address, password, sources)
    return findings


def check_data(
    application: Application, configuration: Configuration, state: StateFolder, addresses: Addresses
) -> None:
    """Check that topics and tables match the application; missing topics are created.

    Raises:
        EventsError: a topic has another number of partitions, its schema is incompatible with the
            last version or kept elsewhere, Kafka's user lacks a right, or a broker or the registry
            did not answer.
        ReportsError: a table has a feature that one engine would read or write wrongly.
    """
    if configuration.engines.schemas == "registry":
        _check_schemas(application, configuration, state, addresses)
    log = open_events(application.name, configuration, state, addresses).log()
    log.declare(application.all_topics())
    if isinstance(log, KafkaLog):
        log.check_rights(application.all_topics(), application.position_holders())
    log.close()
    for name, report in application.reports.items():
        check_tables(Lake(state.lake), report, state.reports / name)


def _check_schemas(
    application: Application, configuration: Configuration, state: StateFolder, addresses: Addresses
) -> None:
    """Refuse schema ids of the embedded registry, which mean other schemas in the external one."""
    engines = msgspec.structs.replace(configuration.engines, schemas="embedded")
    before = msgspec.structs.replace(configuration, engines=engines)
    own = open_events(application.name, before, state, addresses).registry
    if isinstance(own, EmbeddedRegistry) and not own.is_empty():
        raise EventsError(
            "the log has events whose schemas are in its own tables, under ids of their own",
            hint='stay with [engines] schemas = "embedded", or begin a new state folder',
        )
