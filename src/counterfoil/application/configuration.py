"""The settings of `counterfoil.toml`, as msgspec Structs; `reading.py` reads and checks them."""

from typing import Literal

import msgspec

from counterfoil.errors import CounterfoilError
from counterfoil.gateway.config import GatewayConfig
from counterfoil.kafka_access import Mechanism, Protocol


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
