"""Python interface to the native data plane: start, update instances, inspect, drain."""

import functools
import re
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from counterfoil import _native
from counterfoil.errors import CounterfoilError
from counterfoil.gateway.acme.settings import Acme
from counterfoil.gateway.acme.showing import Showing
from counterfoil.gateway.config import GatewayConfig
from counterfoil.gateway.credentials import SigningKey
from counterfoil.gateway.services import ServiceTls, Upstream

_OTHER_BUILD: Final = re.compile(r"unknown (field|variant) `|missing field `")
"""Error messages of a native part built from another version of the settings."""
LOOK_SECONDS: Final = 0.02
"""Between two polls for instances; small next to a start, which takes a second."""


class GatewayError(CounterfoilError):
    """The data plane did not start, or refused a configuration; what ran before keeps running."""

    def __init__(self, message: str, *, hint: str = "", setting: str = "") -> None:
        super().__init__(message, hint=hint)
        self.setting = setting
        """The faulty setting, by its full name under `[gateway]`; empty if unknown."""


def _refused(error: Exception) -> GatewayError:
    """The native side's error, with the setting at fault if it names one."""
    match error.args:
        case (str(detail), str(setting)):
            return GatewayError(detail, setting=setting)
        case _ if _OTHER_BUILD.search(str(error)):
            # The document is made from the Python types, which have already been validated.
            return GatewayError(
                f"the native part of Counterfoil is of another build than its Python: {error}",
                hint="build it anew: `make`, or install the package again",
            )
        case _:
            return GatewayError(str(error))


@dataclass(frozen=True, slots=True)
class SharedLimits:
    """The Redis or Valkey in which an application's gateways share their limits."""

    url: str
    """`redis://host:port/0`, or `rediss://` with TLS."""
    application: str
    """Part of the keys: two applications of the same name must not share a server."""
    password: str = field(default="", repr=False)
    interval_ms: int = 50
    """Between two synchronizations; docs/limits.md states its effect on the bound."""


class DataPlane:
    """Serves from construction on, on native threads that never take the interpreter's lock.

    With `opened=False` only the admin address is served until `open` is called. Until then the
    clients' port is bound but not listening, so that another gateway on it gets all connections.
    `hooks` gives the `host:port` of each process of each hook (`counterfoil.gateway.hooks`).

    Raises:
        GatewayError: a port is taken, a certificate can't be read, or the configuration is wrong.
    """

    def __init__(
        self,
        config: GatewayConfig,
        *,
        access_log: Path | None,
        admin_credential: str,
        certificate: Path | None = None,
        key: Path | None = None,
        shared_limits: SharedLimits | None = None,
        folder: Path = Path(),
        hooks: Mapping[str, Sequence[str]] | None = None,
        opened: bool = True,
    ) -> None:
        self._folder = folder
        self._hooks = hooks or {}
        self._tls = config.tls
        self._surroundings = {
            "access_log": str(access_log) if access_log else None,
            "admin_credential": admin_credential,
            "certificate": str(certificate) if certificate else None,
            "key": str(key) if key else None,
            "shared_limits": {
                "url": shared_limits.url,
                "password": shared_limits.password,
                "prefix": f"counterfoil:{shared_limits.application}:limit:",
                "interval_ms": shared_limits.interval_ms,
            }
            if shared_limits
            else None,
        }
        try:
            self._native = _native.DataPlane(
                _document(config, self._surroundings, folder, self._hooks)
            )
        except (ValueError, RuntimeError) as error:
            raise _refused(error) from error
        self.listen, self.admin = self._native.addresses()
        if opened:
            self.open()

    def open(self) -> None:
        """Start listening for clients, if not done yet.

        Raises:
            GatewayError: another process has taken the port; `open` may be retried.
        """
        try:
            self._native.open()
        except RuntimeError as error:
            raise GatewayError(str(error)) from error

    def await_instances(self, timeout_seconds: float, stop: threading.Event) -> list[str]:
        """Wait until an instance of every routed service is known, so that the first clients don't
        get 503; at most `timeout_seconds`, and not after `stop` is set.

        Returns the services without a known instance.
        """
        deadline = time.monotonic() + timeout_seconds
        while (unknown := self._native.unknown_services()) and time.monotonic() < deadline:
            if stop.wait(LOOK_SECONDS):
                break
        return unknown

    def reload(
        self,
        config: GatewayConfig,
        *,
        instances: Mapping[str, Iterable[tuple[str, str]]] | None = None,
    ) -> int:
        """Replace the configuration without losing a request; returns its version.

        The new configuration is checked as a whole before anything changes. Unchanged limits,
        breakers, instances and counters keep their state; requests under way finish under the old
        configuration. Certificate files are read again and used for new connections, as are the
        files of services' `tls`; connections made with replaced ones take no more requests.
        Services that get their first route begin with `instances` (as in `set_endpoints`), so that
        their first requests are served.

        Raises:
            GatewayError: the configuration is invalid, or changes a setting that is fixed at start
                (`changes.SETTLED_AT_START`); the previous one stays in force.
        """
        if config.tls != self._tls:
            raise GatewayError("tls can't change while the gateway runs: start it again")
        try:
            return self._native.reload(
                _document(config, self._surroundings, self._folder, self._hooks),
                {name: list(found) for name, found in (instances or {}).items()},
            )
        except (ValueError, RuntimeError) as error:
            raise _refused(error) from error

    def set_endpoints(self, service: str, endpoints: Iterable[tuple[str, str]]) -> None:
        """Replace the instances of a service with (instance, `host:port`) pairs."""
        self._native.set_endpoints(service, list(endpoints))

    def purge(
        self,
        *,
        urls: Iterable[str] = (),
        tags: Iterable[str] = (),
        everything: bool = False,
        soft: bool = False,
    ) -> None:
        """Purge stored answers: by path and query, by tag, or all of them.

        `soft` marks them as stale: they are still used where stale answers may be used. Answers
        that are being fetched are purged as well.

        Raises:
            GatewayError: nothing is named, a URL is invalid, or no route has a cache.
        """
        document = {"urls": list(urls), "tags": list(tags), "all": everything, "soft": soft}
        try:
            self._native.purge_json(msgspec.json.encode(document).decode())
        except ValueError as error:
            raise GatewayError(str(error)) from error

    def hold_breaker(
        self, service: str, instance: str, mode: Literal["open", "closed", "auto"]
    ) -> None:
        """Force an instance's breaker open or closed, or release it (`auto`).

        Raises:
            GatewayError: there is no such service or instance.
        """
        try:
            self._native.hold_breaker(service, instance, mode)
        except ValueError as error:
            raise GatewayError(str(error)) from error

    def weigh(self, path: str, weights: Mapping[str, int] | None) -> None:
        """Override the split weights of the routes with `path`, until a reload changes the split or
        the gateway ends; None restores those of the configuration.

        Raises:
            GatewayError: there is no such split, or no service would have a weight above 0.
        """
        try:
            self._native.weigh_json(
                msgspec.json.encode({"path": path, "weights": weights}).decode()
            )
        except ValueError as error:
            raise GatewayError(str(error)) from error

    def certify(self, showing: Showing) -> None:
        """Replace the certificates issued by an ACME directory, and the challenge certificates that
        it looks for; in effect from the next handshake on.

        Raises:
            GatewayError: TLS is off. A host whose certificate or key can't be used is skipped, and
                reported in `state`.
        """
        try:
            self._native.certify_json(showing.document())
        except ValueError as error:
            raise GatewayError(str(error)) from error

    def state(self) -> dict[str, Any]:
        """The state of limits and breakers, and counters."""
        return msgspec.json.decode(self._native.state_json())

    def drain(self, timeout_seconds: float) -> None:
        """Refuse new requests, and wait for those under way."""
        self._native.drain(timeout_seconds)


def check(config: GatewayConfig, *, folder: Path = Path()) -> None:
    """Check whether a data plane could start with `config`, without starting it.

    Raises:
        GatewayError: it couldn't; says why.
    """
    surroundings: dict[str, Any] = {
        **dict.fromkeys(("access_log", "certificate", "key", "shared_limits")),
        "admin_credential": "",
    }
    hooks = dict.fromkeys(config.hooks, ("127.0.0.1:1",))  # never connected to
    try:
        _native.DataPlane.check(_document(config, surroundings, folder, hooks))
    except (ValueError, RuntimeError) as error:
        raise _refused(error) from error


def document(config: GatewayConfig, *, folder: Path = Path()) -> dict[str, Any]:
    """The data plane's document for `config` without its surroundings; it contains secrets.

    Raises:
        GatewayError: a signing key's secret can't be read.
    """
    return msgspec.json.decode(_document(config, {}, folder, {}))


def _document(
    config: GatewayConfig,
    surroundings: dict[str, Any],
    folder: Path,
    hooks: Mapping[str, Sequence[str]],
) -> str:
    """The data plane's document: the complete configuration and its surroundings."""
    named = {name: Upstream() for route in config.routes for name in route.services}
    services = named | config.services
    document = msgspec.to_builtins(msgspec.structs.replace(config, services=services))
    del document["tls"]
    del document["start_wait_seconds"]
    for name, hook in document["hooks"].items():
        del hook["processes"]
        hook["addresses"] = list(hooks.get(name, ()))
    for name, service in services.items():
        if service.tls is not None:
            document["services"][name]["tls"] = _service_tls(service.tls, folder)
    place = functools.partial(_placed, folder)
    document["certificates"] = [
        {name: place(f"certificates[{number}].{name}", file) for name, file in each.items()}
        for number, each in enumerate(document["certificates"])
    ]
    document["ticket_secret"] = place("ticket_secret", config.ticket_secret)
    document["identity"] = [
        msgspec.to_builtins(issuer) | {"ca_file": place("identity.ca_file", issuer.ca_file)}
        for issuer in config.issuers
    ]
    if config.acme is not None:
        document["acme"] = msgspec.to_builtins(_acme(config.acme, folder))
    document["telemetry"]["ca_file"] = place("telemetry.ca_file", config.telemetry.ca_file)
    document["signing_keys"] = {
        name: {"secret": _secret(folder, name, key), "tenant": key.tenant, "tier": key.tier}
        for name, key in config.signing_keys.items()
    }
    return msgspec.json.encode(document | surroundings).decode()


def _acme(acme: Acme, folder: Path) -> Acme:
    """`acme` with absolute paths, whose files exist.

    Raises:
        GatewayError: a file is missing.
    """
    _placed(folder, "acme.ca_file", acme.ca_file)
    if acme.external_account is not None:
        _placed(folder, "acme.external_account.key_file", acme.external_account.key_file)
    return acme.placed(folder)


def _placed(folder: Path, setting: str, file: str | None) -> str | None:
    """The absolute path of a file that exists; None if the setting is empty.

    Raises:
        GatewayError: it is missing.
    """
    if not file:
        return None
    path = folder.resolve() / file
    if not path.is_file():
        raise GatewayError(f"{setting}: there is no file {path}", setting=setting)
    return str(path)


def _service_tls(tls: ServiceTls, folder: Path) -> dict[str, str | None]:
    """`tls` with absolute paths, and None for unset settings."""
    files = {"ca_file": tls.ca_file, "certificate": tls.certificate, "key": tls.key}
    placed = {name: str(folder.resolve() / file) if file else None for name, file in files.items()}
    return placed | {"server_name": tls.server_name or None}


def _secret(folder: Path, name: str, key: SigningKey) -> str:
    try:
        return (folder / key.secret_file).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise GatewayError(
            f"a signing key's secret can't be read: {error}",
            setting=f"signing_keys.{name}.secret_file",
        ) from error
