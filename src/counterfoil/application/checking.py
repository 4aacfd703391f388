"""Checks of a configuration that involve several settings or the disk."""

from ipaddress import ip_address

from counterfoil.application.configuration import Configuration, KafkaConfig
from counterfoil.application.gateway_references import faults
from counterfoil.application.toml_file import TomlFile

FILES = ("ca", "certificate", "key")
"""Settings of `[kafka]` and `[registry]` that are file paths."""
_PORTS = 65_536


def check(file: TomlFile, configuration: Configuration) -> None:
    """Refuse settings that are valid one by one but not together.

    Raises:
        ConfigurationError: names the line and the remedy.
    """
    _check_listening(file, configuration)
    _check_engines(file, configuration)
    _check_services(file, configuration)
    _check_routes(file, configuration)
    for fault in faults(configuration.gateway):
        raise file.error(fault.setting, fault.said, fault.hint)
    _check_kafka(file, configuration.kafka)
    _check_registry(file, configuration)


def _check_listening(file: TomlFile, configuration: Configuration) -> None:
    """Refuse malformed addresses, and addresses used twice."""
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
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal() or int(port) >= _PORTS:
            raise file.error(
                setting,
                f"{setting} = {address!r} is no address",
                'write HOST:PORT, such as "127.0.0.1:8443"',
            )
        if setting.startswith("gateway.") and not _is_ip(host):
            raise file.error(
                setting,
                f"{setting} = {address!r} is no address of IP",
                'write one and a port, such as "0.0.0.0:443" or "[::]:443"',
            )
        if int(port) and address in taken:
            raise file.error(
                setting,
                f"{setting} and {taken[address]} are both {address}",
                "give each a port of its own",
            )
        taken[address] = setting


def _is_ip(host: str) -> bool:
    """Whether `host` is an IPv4 address, or an IPv6 address in brackets; not a name."""
    try:
        found = ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return (found.version == 6) == host.startswith("[")


def _check_engines(file: TomlFile, configuration: Configuration) -> None:
    """Refuse settings that the chosen engine doesn't support."""
    if configuration.events.outbox == "log" and configuration.engines.events == "embedded":
        raise file.error(
            "events.outbox",
            "SQLite has no log from which an outbox could be read",
            'use outbox = "table", or [engines] events = "kafka"',
        )
    if configuration.engines.limits != "redis":
        return
    for name, limit in configuration.gateway.limits.items():
        if limit.algorithm != "gcra":
            raise file.error(
                f"gateway.limits.{name}.algorithm",
                f"limit {name} counts by {limit.algorithm}, which gateways can't share",
                'use gcra with a rate and a burst, or [engines] limits = "local"',
            )


def _check_services(file: TomlFile, configuration: Configuration) -> None:
    for name in configuration.gateway.services:
        if name not in configuration.services:
            raise file.error(
                f"gateway.services.{name}",
                f"there is no service {name!r} that these settings could be for",
                _declare_service(configuration),
            )


def _check_routes(file: TomlFile, configuration: Configuration) -> None:
    """Refuse routes to services, limits and hooks that are not declared."""
    for index, route in enumerate(configuration.gateway.routes):
        where = f"gateway.routes[{index}]"
        for service in route.services:
            if service in configuration.services:
                continue
            mirrored = route.mirror is not None and service == route.mirror.service
            setting = "mirror" if mirrored else "split" if route.split else "service"
            raise file.error(
                f"{where}.{setting}",
                f"route {route.path} names the unknown service {service!r}",
                _declare_service(configuration),
            )
        for kind, named, declared in (
            ("limit", route.limits, configuration.gateway.limits),
            ("hook", route.hooks, configuration.gateway.hooks),
        ):
            for name in named:
                if name not in declared:
                    raise file.error(
                        f"{where}.{kind}s",
                        f"route {route.path} names the unknown {kind} {name!r}",
                        f"declare it as [gateway.{kind}s.{name}]",
                    )


def _declare_service(configuration: Configuration) -> str:
    known = ", ".join(sorted(configuration.services)) or "none"
    return f"declare it under [services], or use one of: {known}"


def _check_kafka(file: TomlFile, kafka: KafkaConfig) -> None:
    """Refuse credentials that the protocol doesn't use, and protocols without credentials."""
    tls, sasl = kafka.protocol.endswith("SSL"), kafka.protocol.startswith("SASL")
    if sasl and not kafka.user:
        raise file.error(
            "kafka.protocol", f"{kafka.protocol} asks for a user", "set user in [kafka]"
        )
    if kafka.user and not sasl:
        raise file.error(
            "kafka.user",
            f"{kafka.protocol} tells brokers no user",
            'set protocol = "SASL_SSL", or take user out',
        )
    for setting in FILES:
        name = getattr(kafka, setting)
        if name and not tls:
            raise file.error(
                f"kafka.{setting}",
                f"{kafka.protocol} has no use for {setting}",
                f'set protocol = "SASL_SSL" or "SSL", or take {setting} out',
            )
        _check_file(file, f"kafka.{setting}", name)
    if bool(kafka.certificate) != bool(kafka.key):
        setting, missing = ("certificate", "key") if kafka.certificate else ("key", "certificate")
        raise file.error(
            f"kafka.{setting}", f"a {setting} without its {missing}", f"set {missing} in [kafka]"
        )


def _check_registry(file: TomlFile, configuration: Configuration) -> None:
    """Refuse a certificate authority that isn't used or is missing."""
    ca, address = configuration.registry.ca, configuration.addresses.registry
    if ca and not address.startswith("https://"):
        raise file.error(
            "registry.ca",
            f"{address or 'a registry that is started here'} has no use for ca",
            "set registry in [addresses] to https://USER@HOST:PORT, or take ca out",
        )
    _check_file(file, "registry.ca", ca)


def _check_file(file: TomlFile, setting: str, name: str) -> None:
    path = file.path.parent / name
    if name and not path.is_file():
        raise file.error(
            setting, f"there is no file {path}", f"correct {setting.rpartition('.')[2]}"
        )
