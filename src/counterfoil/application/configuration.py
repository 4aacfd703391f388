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
    """The engine behind each part; `embedded` and `local` need no installation."""

    events: Literal["embedded", "kafka"] = "embedded"
    """`kafka`: the log in Apache Kafka, service and pipeline state in PostgreSQL."""
    reports: Literal["embedded", "spark"] = "embedded"
    """`spark`: tables and reports with Apache Spark and Delta Lake."""
    coordination: Literal["embedded", "etcd"] = "embedded"
    schemas: Literal["embedded", "registry"] = "embedded"
    """`registry`: topic schemas in a registry that speaks Confluent's REST API."""
    limits: Literal["local", "redis"] = "local"
    """`redis`: limits shared by all gateways, in Redis or Valkey."""


class EventsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How events get from a service's database to the log."""

    outbox: Literal["table", "log"] = "table"
    """`log`: read from PostgreSQL's WAL (logical decoding); requires the `kafka` engine."""


class AddressesConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Addresses of external engines; an engine without one is started in the state folder."""

    kafka: str = ""
    """`host:port` of one or more brokers, comma-separated."""
    postgres: str = ""
    """A connection URI without a password (libpq reads PGPASSWORD and ~/.pgpass)."""
    redis: str = ""
    """`redis://host:port/0` or `rediss://...`; the password comes from REDIS_PASSWORD."""
    etcd: str = ""
    """`http://host:port` of one or more members, comma-separated."""
    registry: str = ""
    """`https://user@host:port` of a schema registry; the password comes from REGISTRY_PASSWORD."""
    spark: str = ""
    """`spark://host:port` of a cluster's master."""


class KafkaConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """TLS and SASL for the brokers in `[addresses]`; brokers started here use neither.

    Paths are relative to the folder of `counterfoil.toml`. The password comes from KAFKA_PASSWORD,
    that of an encrypted key from KAFKA_KEY_PASSWORD.
    """

    protocol: Protocol = "PLAINTEXT"
    """The brokers' `security.protocol`."""
    mechanism: Mechanism = "SCRAM-SHA-512"
    user: str = ""
    ca: str = ""
    """The CA of the brokers' certificates; by default those that the system trusts."""
    certificate: str = ""
    """The client certificate, if the brokers require one."""
    key: str = ""


class RegistryConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """TLS for the schema registry in `[addresses]`; a registry started here uses none."""

    ca: str = ""
    """The CA of its certificate, relative to the folder of `counterfoil.toml`; by default those of
    `certifi`, or of SSL_CERT_FILE."""


class ServiceConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The number of a service's instances."""

    instances: int = 2

    def __post_init__(self) -> None:
        if not 1 <= self.instances <= 64:
            raise ValueError("instances must be between 1 and 64")


class PipelineConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How a pipeline runs."""

    processes: int = 1
    """On Kafka, each process handles a share of the partitions. On the embedded log one process
    handles all of them, since SQLite allows one writer at a time."""

    def __post_init__(self) -> None:
        if not 1 <= self.processes <= 64:
            raise ValueError("processes must be between 1 and 64")


class IssuerConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The development OIDC issuer; omit the table to use your own issuer."""

    listen: str = "127.0.0.1:8455"


class CoordinationConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The embedded coordination node."""

    listen: str = "127.0.0.1:8477"


class ConsoleConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The console."""

    listen: str = "127.0.0.1:8460"
    read_only: bool = False
    """Actions are refused with 403."""


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
