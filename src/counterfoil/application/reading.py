"""Reads `counterfoil.toml`; errors name the line and the remedy."""

import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import msgspec

from counterfoil.application.checking import FILES, check
from counterfoil.application.configuration import (
    AddressesConfig,
    Configuration,
    ConfigurationError,
    EnginesConfig,
    KafkaConfig,
    RegistryConfig,
)
from counterfoil.application.settings import hint_for, said_of
from counterfoil.application.toml_file import TomlFile, keys_of

FILE_NAME: Final = "counterfoil.toml"
ENGINES_VARIABLE: Final = "COUNTERFOIL_ENGINES"
OWN_SERVERS_VARIABLE: Final = "COUNTERFOIL_OWN_SERVERS"
INTEGERS: Final = 2**63
"""TOML integers have 64 bits."""


def load(
    folder: Path, *, engines: str | None = None, own_servers: bool | None = None
) -> Configuration:
    """Read and check the configuration of the application in `folder`.

    `engines` (`events=kafka,reports=spark`) overrides the file's choice for those parts. With
    `own_servers`, `[addresses]` is ignored, so that every external engine in use is started in the
    state folder. Both default to environment variables (COUNTERFOIL_ENGINES,
    COUNTERFOIL_OWN_SERVERS), which the supervisor sets for its processes.

    Raises:
        ConfigurationError: the file is missing or not TOML, a name is unknown, a type is wrong, or
            a reference dangles.
    """
    file = _read(folder)
    try:
        document = tomllib.loads(file.text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{file.path}: is not TOML: {error}") from error
    for setting, number in _integers(document):
        if not -INTEGERS <= number < INTEGERS:
            raise file.error(setting, f"{number} is too large", "write a smaller one")
    chosen = os.environ.get(ENGINES_VARIABLE, "") if engines is None else engines
    if chosen:
        document["engines"] = document.get("engines", {}) | _chosen(chosen)
    configuration = _converted(file, document)
    check(file, configuration)
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
        kafka=_with_absolute_paths(folder, configuration.kafka),
        registry=_with_absolute_paths(folder, configuration.registry),
    )


def at_fault(folder: Path, setting: str, said: str) -> ConfigurationError:
    """An error about a setting, such as `gateway.services.payments.tls.key`, with its line."""
    return _read(folder).error(setting, said)


def _read(folder: Path) -> TomlFile:
    path = folder / FILE_NAME
    try:
        return TomlFile(path, path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigurationError(
            f"{path}: there is no such file",
            hint="name an application's folder, or write one with `counterfoil new NAME`",
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: can't be read: {error}") from error


def _integers(value: object, location: str = "$") -> Iterator[tuple[str, int]]:
    """The integers of a document, each with its location."""
    if isinstance(value, dict):
        for name, inner in cast("dict[str, object]", value).items():
            yield from _integers(inner, f"{location}.{name}")
    elif isinstance(value, list):
        for place, inner in enumerate(cast("list[object]", value)):
            yield from _integers(inner, f"{location}[{place}]")
    elif isinstance(value, int):
        yield location, value


def _converted(file: TomlFile, document: Mapping[str, Any]) -> Configuration:
    try:
        return msgspec.convert(document, Configuration)
    except msgspec.ValidationError as error:
        message, _, location = str(error).partition(" - at `")
        keys = keys_of(location)
        hint = hint_for(Configuration, keys, message)
        names = [key for key in keys if isinstance(key, str)]
        where = f"{names[-1]}: " if hint and names and names[-1] != "*" else ""
        unknown = [message.split("`")[1]] if "unknown field" in message else []
        raise file.error_at([*keys, *unknown], f"{where}{said_of(message)}", hint) from error


def _chosen(engines: str) -> dict[str, str]:
    """The engines chosen on the command line, checked here: errors have no line of the file."""
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


Paths = TypeVar("Paths", KafkaConfig, RegistryConfig)


def _with_absolute_paths(folder: Path, settings: Paths) -> Paths:
    """`settings` with absolute paths, which hold in any working directory."""
    named = [setting for setting in FILES if getattr(settings, setting, "")]
    absolute = {setting: str(folder.resolve() / getattr(settings, setting)) for setting in named}
    return msgspec.structs.replace(settings, **absolute)
