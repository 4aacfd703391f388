"""Reads `counterfoil.toml`: checked whole before anything starts, errors with line and remedy."""

import os
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal, NoReturn, TypeVar, cast

import msgspec

from counterfoil.application.gateway_references import faults
from counterfoil.application.settings import hint_for, said_of
from counterfoil.errors import CounterfoilError
from counterfoil.gateway.config import GatewayConfig
from counterfoil.kafka_access import Mechanism, Protocol

FILE_NAME = "counterfoil.toml"
ENGINES_VARIABLE = "COUNTERFOIL_ENGINES"
OWN_SERVERS_VARIABLE = "COUNTERFOIL_OWN_SERVERS"
PORTS: Final = 65_536
INTEGERS: Final = 2**63
"""TOML's are of 64 bits, and so are those of what is told of them."""
_FILES: Final = ("ca", "certificate", "key")


class ConfigurationError(CounterfoilError):
    """The configuration can't be used; names the file, the line and the remedy."""


class ApplicationConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where the user's `Application` object is."""

    module: str
    """`package.module:attribute`, importable from the folder of the configuration file."""


class EnginesConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The engine behind each part; `embedded` and `local` need nothing installed."""

    events: Literal["embedded", "kafka"] = "embedded"
    """`kafka`: the log on Apache Kafka, service and pipeline state in PostgreSQL."""
    reports: Literal["embedded", "spark"] = "embedded"
    """`spark`: tables and reports by Apache Spark with Delta Lake."""
    coordination: Literal["embedded", "etcd"] = "embedded"
    schemas: Literal["embedded", "registry"] = "embedded"
    """`registry`: schemas of topics in a server that speaks Confluent's REST API."""
    limits: Literal["local", "redis"] = "local"
    """`redis`: limits that hold over all gateways, on Redis or Valkey."""


class EventsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How events leave the database of their rows."""

    outbox: Literal["table", "log"] = "table"
    """`log`: from PostgreSQL's log (logical decoding), where `events` is `kafka`."""


class AddressesConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where the real engines are; one without an address is started here, in the state folder."""

    kafka: str = ""
    """`host:port` of one or more brokers, with commas between."""
    postgres: str = ""
    """A connection URI without a password (libpq reads PGPASSWORD and ~/.pgpass)."""
    redis: str = ""
    """`redis://host:port/0` or `rediss://...`; the password comes from REDIS_PASSWORD."""
    etcd: str = ""
    """`http://host:port` of one or more members, with commas between."""
    registry: str = ""
    """`https://user@host:port` of a schema registry; the password comes from REGISTRY_PASSWORD."""
    spark: str = ""
    """`spark://host:port` of a cluster's master."""


class KafkaConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How the brokers in `[addresses]` let this application in; what is started here lets all in.

    Paths are from the folder of this file. The password comes from KAFKA_PASSWORD, that of an
    encrypted key from KAFKA_KEY_PASSWORD.
    """

    protocol: Protocol = "PLAINTEXT"
    """What their listener speaks, in Kafka's words."""
    mechanism: Mechanism = "SCRAM-SHA-512"
    user: str = ""
    ca: str = ""
    """The authority that signs their certificates; else those that the system trusts."""
    certificate: str = ""
    """The application's own, where they ask for one."""
    key: str = ""


class RegistryConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How the schema registry in `[addresses]` is known; what is started here speaks no TLS."""

    ca: str = ""
    """The authority that signs its certificate, from the folder of this file; else those of
    `certifi`, or of SSL_CERT_FILE."""


class ServiceConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How often a service runs."""

    instances: int = 2

    def __post_init__(self) -> None:
        if not 1 <= self.instances <= 64:
            raise ValueError("instances must be between 1 and 64")


class PipelineConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How a pipeline runs."""

    processes: int = 1
    """Each works on a share of the partitions, on Kafka. On the embedded log one process does it
    all, since one writes at a time."""

    def __post_init__(self) -> None:
        if not 1 <= self.processes <= 64:
            raise ValueError("processes must be between 1 and 64")


class IssuerConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The development OIDC issuer; leave the table out to use an issuer of your own."""

    listen: str = "127.0.0.1:8455"


class CoordinationConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The embedded coordination node."""

    listen: str = "127.0.0.1:8477"


class ConsoleConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The console."""

    listen: str = "127.0.0.1:8460"
    read_only: bool = False
    """Look, but don't touch: actions are refused with 403."""


class Configuration(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All of `counterfoil.toml`."""

    application: ApplicationConfig
    services: dict[str, ServiceConfig]
    gateway: GatewayConfig = msgspec.field(default_factory=GatewayConfig)
    engines: EnginesConfig = msgspec.field(default_factory=EnginesConfig)
    events: EventsConfig = msgspec.field(default_factory=EventsConfig)
    addresses: AddressesConfig = msgspec.field(default_factory=AddressesConfig)
    kafka: KafkaConfig = msgspec.field(default_factory=KafkaConfig)
    registry: RegistryConfig = msgspec.field(default_factory=RegistryConfig)
    pipelines: dict[str, PipelineConfig] = msgspec.field(default_factory=dict[str, PipelineConfig])
    issuer: IssuerConfig | None = None
    coordination: CoordinationConfig = msgspec.field(default_factory=CoordinationConfig)
    console: ConsoleConfig = msgspec.field(default_factory=ConsoleConfig)


def load(
    folder: Path, *, engines: str | None = None, own_servers: bool | None = None
) -> Configuration:
    """Read and check the configuration of the application in `folder`.

    `engines` (`events=kafka,reports=spark`) takes the place of what the file says of those parts;
    without it the environment's COUNTERFOIL_ENGINES does, which a supervisor sets for its own.
    With `own_servers` the file's `[addresses]` are left aside, so that every real engine in use is
    started in the state folder; COUNTERFOIL_OWN_SERVERS says the same to a supervisor's processes.

    Raises:
        ConfigurationError: missing, not TOML, an unknown name, a wrong type or a dangling
            reference; nothing was started.
    """
    path = folder / FILE_NAME
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigurationError(
            f"{path}: there is no such file",
            hint="name an application's folder, or write one with `counterfoil new NAME`",
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: can't be read: {error}") from error
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path}: is not TOML: {error}") from error
    for location, number in _integers(document):
        if not -INTEGERS <= number < INTEGERS:
            where = f"{path}, line {_line_of(text, location)}"
            raise ConfigurationError(f"{where}: {number} is too large", hint="write a smaller one")
    chosen = os.environ.get(ENGINES_VARIABLE, "") if engines is None else engines
    if chosen:
        document["engines"] = document.get("engines", {}) | _chosen(chosen)
    try:
        configuration = msgspec.convert(document, Configuration)
    except msgspec.ValidationError as error:
        message, _, location = str(error).partition(" - at `")
        location = location.rstrip("`")
        line = _line_of(text, location, message)
        keys = _keys(location)
        hint = hint_for(Configuration, keys, message)
        names = [key for key in keys if isinstance(key, str)]
        where = f"{names[-1]}: " if hint and names and names[-1] != "*" else ""
        said = f"{path}, line {line}: {where}{said_of(message)}"
        raise ConfigurationError(said, hint=hint) from error
    _check_listening(path, text, configuration)
    _check_references(path, text, configuration)
    for fault in faults(configuration.gateway):
        where = f"{path}, line {_line_of(text, f'$.{fault.setting}')}"
        raise ConfigurationError(f"{where}: {fault.said}", hint=fault.hint)
    _check_kafka(path, text, configuration.kafka)
    _check_registry(path, text, configuration)
    if own_servers is None:
        own_servers = bool(os.environ.get(OWN_SERVERS_VARIABLE))
    if own_servers:
        return msgspec.structs.replace(
            configuration,
            addresses=AddressesConfig(),
            kafka=KafkaConfig(),
            registry=RegistryConfig(),
        )
    return msgspec.structs.replace(
        configuration,
        kafka=_placed(folder, configuration.kafka),
        registry=_placed(folder, configuration.registry),
    )


def at_fault(folder: Path, setting: str, said: str) -> ConfigurationError:
    """`said` of a setting (its whole name, such as `gateway.services.payments.tls.key`), with the
    line of the file that it stands in."""
    path = folder / FILE_NAME
    line = _line_of(path.read_text(encoding="utf-8"), f"$.{setting}")
    return ConfigurationError(f"{path}, line {line}: {said}")


def _integers(value: object, location: str = "$") -> Iterator[tuple[str, int]]:
    """The whole numbers of a document, and where each is."""
    if isinstance(value, dict):
        for name, inner in cast("dict[str, object]", value).items():
            yield from _integers(inner, f"{location}.{name}")
    elif isinstance(value, list):
        for place, inner in enumerate(cast("list[object]", value)):
            yield from _integers(inner, f"{location}[{place}]")
    elif isinstance(value, int):
        yield location, value


def _chosen(engines: str) -> dict[str, str]:
    """The engines of a command line, checked by themselves: no line of a file is to blame."""
    parts = [each.partition("=") for each in engines.split(",")]
    found = {part.strip(): engine.strip() for part, _, engine in parts}
    try:
        msgspec.convert(found, EnginesConfig)
    except msgspec.ValidationError as error:
        known = "events=kafka, reports=spark, coordination=etcd, schemas=registry, limits=redis"
        raise ConfigurationError(
            f"engines {engines!r}: {error}", hint=f"some of {known}, with commas between"
        ) from error
    return found


def _check_listening(path: Path, text: str, configuration: Configuration) -> None:
    """Refuse addresses that nothing could listen on, and one that two would."""
    issuer = configuration.issuer
    embedded = configuration.engines.coordination == "embedded"
    addresses = {
        "gateway.listen": configuration.gateway.listen,
        "gateway.admin": configuration.gateway.admin,
        "console.listen": configuration.console.listen,
        **({"issuer.listen": issuer.listen} if issuer else {}),
        **({"coordination.listen": configuration.coordination.listen} if embedded else {}),
    }
    taken: dict[str, str] = {}
    for setting, address in addresses.items():
        where = f"{path}, line {_line_of(text, f'$.{setting}')}"
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal() or int(port) >= PORTS:
            raise ConfigurationError(
                f"{where}: {setting} = {address!r} is no address",
                hint='write HOST:PORT, such as "127.0.0.1:8443"',
            )
        if int(port) and address in taken:
            raise ConfigurationError(
                f"{where}: {setting} and {taken[address]} are both {address}",
                hint="give each a port of its own",
            )
        taken[address] = setting


def _check_references(path: Path, text: str, configuration: Configuration) -> None:
    if configuration.events.outbox == "log" and configuration.engines.events == "embedded":
        raise ConfigurationError(
            f"{path}, line {_line_of(text, '$.events.outbox')}: "
            "SQLite has no log from which an outbox could be read",
            hint='use outbox = "table", or [engines] events = "kafka"',
        )
    for name, limit in configuration.gateway.limits.items():
        if configuration.engines.limits == "redis" and limit.algorithm != "gcra":
            where = f"$.gateway.limits.{name}"
            raise ConfigurationError(
                f"{path}, line {_line_of(text, where + '.algorithm')}: "
                f"limit {name} counts by {limit.algorithm}, which gateways can't share",
                hint='use gcra with a rate and a burst, or [engines] limits = "local"',
            )
    known = ", ".join(sorted(configuration.services)) or "none"
    for name in configuration.gateway.services:
        if name not in configuration.services:
            raise ConfigurationError(
                f"{path}, line {_line_of(text, f'$.gateway.services.{name}')}: "
                f"there is no service {name!r} that these settings could be for",
                hint=f"declare it under [services], or use one of: {known}",
            )
    for index, route in enumerate(configuration.gateway.routes):
        where = f"$.gateway.routes[{index}]"
        for service in route.services:
            if service in configuration.services:
                continue
            mirrored = route.mirror is not None and service == route.mirror.service
            setting = ".mirror" if mirrored else ".split" if route.split else ".service"
            raise ConfigurationError(
                f"{path}, line {_line_of(text, where + setting)}: "
                f"route {route.path} names the unknown service {service!r}",
                hint=f"declare it under [services], or use one of: {known}",
            )
        for limit in route.limits:
            if limit not in configuration.gateway.limits:
                raise ConfigurationError(
                    f"{path}, line {_line_of(text, where + '.limits')}: "
                    f"route {route.path} names the unknown limit {limit!r}",
                    hint=f"declare it as [gateway.limits.{limit}]",
                )
        for hook in route.hooks:
            if hook not in configuration.gateway.hooks:
                raise ConfigurationError(
                    f"{path}, line {_line_of(text, where + '.hooks')}: "
                    f"route {route.path} names the unknown hook {hook!r}",
                    hint=f"declare it as [gateway.hooks.{hook}]",
                )


def _check_kafka(path: Path, text: str, kafka: KafkaConfig) -> None:
    """Refuse what would be left unused, or asked for in vain: either is less than was meant."""
    tls, sasl = kafka.protocol.endswith("SSL"), kafka.protocol.startswith("SASL")

    def refuse(setting: str, said: str, hint: str) -> NoReturn:
        line = _line_of(text, f"$.kafka.{setting}")
        raise ConfigurationError(f"{path}, line {line}: {said}", hint=hint)

    if sasl and not kafka.user:
        refuse("protocol", f"{kafka.protocol} asks for a user", "set user in [kafka]")
    if kafka.user and not sasl:
        said = f"{kafka.protocol} tells brokers no user"
        refuse("user", said, 'set protocol = "SASL_SSL", or take user out')
    for setting in _FILES:
        file = getattr(kafka, setting)
        if file and not tls:
            said = f"{kafka.protocol} has no use for {setting}"
            refuse(setting, said, f'set protocol = "SASL_SSL" or "SSL", or take {setting} out')
        if file and not (path.parent / file).is_file():
            refuse(setting, f"there is no file {path.parent / file}", f"correct {setting}")
    if bool(kafka.certificate) != bool(kafka.key):
        setting, missing = ("certificate", "key") if kafka.certificate else ("key", "certificate")
        refuse(setting, f"a {setting} without its {missing}", f"set {missing} in [kafka]")


def _check_registry(path: Path, text: str, configuration: Configuration) -> None:
    """Refuse an authority that would vouch for nobody, or is not there."""
    ca, address = configuration.registry.ca, configuration.addresses.registry
    if not ca:
        return
    where = f"{path}, line {_line_of(text, '$.registry.ca')}"
    if not address.startswith("https://"):
        raise ConfigurationError(
            f"{where}: {address or 'a registry that is started here'} has no use for ca",
            hint="set registry in [addresses] to https://USER@HOST:PORT, or take ca out",
        )
    if not (path.parent / ca).is_file():
        raise ConfigurationError(f"{where}: there is no file {path.parent / ca}", hint="correct ca")


Paths = TypeVar("Paths", KafkaConfig, RegistryConfig)


def _placed(folder: Path, settings: Paths) -> Paths:
    """The same with paths that hold wherever a process stands."""
    named = [setting for setting in _FILES if getattr(settings, setting, "")]
    absolute = {setting: str(folder.resolve() / getattr(settings, setting)) for setting in named}
    return msgspec.structs.replace(settings, **absolute)


def _line_of(text: str, location: str, message: str = "") -> int:
    """The line that `location` (a msgspec path such as `$.gateway.routes[0].path`) points at.

    TOML libraries for Python give no positions, so the last table header that is a prefix of the
    path is searched, and below it the key.
    """
    keys = _keys(location)
    unknown = re.search(r"unknown field `([^`]+)`", message)
    if unknown:
        keys.append(unknown.group(1))
    lines = text.splitlines()
    best = 1
    header: list[Any] = []
    counts: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        stripped = line.strip()
        if match := re.match(r"^(\[\[?)\s*([^\]]+?)\s*\]\]?", stripped):
            name = match.group(2)
            if match.group(1) == "[[":
                counts[name] = counts.get(name, -1) + 1
            header = []
            parts = name.split(".")
            for place, part in enumerate(parts, start=1):
                header.append(part.strip().strip("\"'"))
                # A table within one of several belongs to the last of them.
                if (outer := ".".join(parts[:place])) in counts:
                    header.append(counts[outer])
            if _leads(header, keys):
                best = number
        elif _leads(header, keys) and (match := re.match(r"^([\w-]+)\s*=", stripped)):
            rest = keys[len(header) :]
            if rest and match.group(1) == rest[0]:
                return number
    return best


def _keys(location: str) -> list[str | int]:
    """The names and places of a msgspec path, with `*` for any name."""
    return [
        int(part) if part.isdigit() else part
        for part in re.findall(r"[^.\[\]$`]+", location.replace("[...]", ".*"))
    ]


def _leads(header: list[Any], keys: list[Any]) -> bool:
    """Whether a table header is on the way to `keys`, in which `*` stands for any name."""
    return len(header) <= len(keys) and all(
        key in ("*", part) for part, key in zip(header, keys, strict=False)
    )
