"""Python's interface to the native data plane: start, update instances, inspect, drain."""

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
"""How the native side says that it does not know what this one writes."""
LOOK_SECONDS: Final = 0.02
"""Between two looks whether instances are known: a start takes a second in any case."""


class GatewayError(CounterfoilError):
    """The data plane did not start, or refused a configuration; what served before still does."""

    def __init__(self, message: str, *, hint: str = "", setting: str = "") -> None:
        super().__init__(message, hint=hint)
        self.setting = setting
        """Which one is to blame, by its whole name under `[gateway]`, if it is known."""


def _refused(error: Exception) -> GatewayError:
    """What the native side said, and of which setting."""
    match error.args:
        case (str(detail), str(setting)):
            return GatewayError(detail, setting=setting)
        case _ if _OTHER_BUILD.search(str(error)):
            # The document is made from this side's types, which a user's setting has passed.
            return GatewayError(
                f"the native part of Counterfoil is of another build than its Python: {error}",
                hint="build it anew: `make`, or install the package again",
            )
        case _:
            return GatewayError(str(error))


@dataclass(frozen=True, slots=True)
class SharedLimits:
    """The Redis or Valkey by which limits hold over all gateways of an application."""

    url: str
    """`redis://host:port/0`, or `rediss://` with TLS."""
    application: str
    """Keys of another application of the same name on the same server would be the same."""
    password: str = field(default="", repr=False)
    interval_ms: int = 50
    """Between two exchanges: what it means for the bound is in docs/limits.md."""


class DataPlane:
    """Serves on native threads from construction on; they never take the interpreter's lock.

    With `opened=False` operators alone are served, and clients from `open` on: until then their
    port is bound, and not listened to, so that another gateway on it gets them all.
    `hooks` tells the `host:port` of each process of each hook (`counterfoil.gateway.hooks`).

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
        """Let clients in, if they aren't yet.

        Raises:
            GatewayError: somebody else has taken the port meanwhile; it may be tried again.
        """
        try:
            self._native.open()
        except RuntimeError as error:
            raise GatewayError(str(error)) from error

    def await_instances(self, timeout_seconds: float, stop: threading.Event) -> list[str]:
        """Wait until every service of the routes can be asked, so that who is let in then gets no
        503 for want of an instance; at most so long, and not after `stop`.

        Returns the services that can't be asked yet: no instance is known.
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
        """Put another configuration into force without losing a request; its version.

        It is checked whole before anything changes. Limits, breakers, instances and counts that
        are configured as before keep their state; requests under way end as they began.
        Certificates are read anew, and serve the connections that begin from then on; so are the
        files of services' `tls`, and connections that rest on what they said before take no more
        requests. Services that no route led to before begin with `instances`, as `set_endpoints`
        takes them: who is sent there at once is served.

        Raises:
            GatewayError: the configuration can't be used, or changes what is settled at the start
                (`listen`, `admin`, `tls`, `threads`); the one before stays in force.
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
        """Replace the instances of a service by (instance, `host:port`) pairs."""
        self._native.set_endpoints(service, list(endpoints))

    def purge(
        self,
        *,
        urls: Iterable[str] = (),
        tags: Iterable[str] = (),
        everything: bool = False,
        soft: bool = False,
    ) -> None:
        """Take back stored answers: by path and query, by tag, or all there are.

        `soft` makes them stale: they are still used where they may be used stale. Answers on their
        way from a service are purged as well.

        Raises:
            GatewayError: nothing is named, a URL is none, or no route has a cache.
        """
        document = {"urls": list(urls), "tags": list(tags), "all": everything, "soft": soft}
        try:
            self._native.purge_json(msgspec.json.encode(document).decode())
        except ValueError as error:
            raise GatewayError(str(error)) from error

    def hold_breaker(
        self, service: str, instance: str, mode: Literal["open", "closed", "auto"]
    ) -> None:
        """Decide over the breaker of an instance, or let go of it (`auto`).

        Raises:
            GatewayError: there is no such service or instance.
        """
        try:
            self._native.hold_breaker(service, instance, mode)
        except ValueError as error:
            raise GatewayError(str(error)) from error

    def weigh(self, path: str, weights: Mapping[str, int] | None) -> None:
        """Change weights of the splits of the routes with `path`, until a reload changes the split
        or the gateway ends; None goes back to those of the configuration.

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
        """Show clients what an ACME directory has issued, and directories the proofs that they look
        for, from the next handshake on, in place of what was told before.

        Raises:
            GatewayError: there is no TLS. A name whose certificate or key can't be used is left
                out, and says so in `state`.
        """
        try:
            self._native.certify_json(showing.document())
        except ValueError as error:
            raise GatewayError(str(error)) from error

    def state(self) -> dict[str, Any]:
        """Limits, breakers and counts."""
        return msgspec.json.decode(self._native.state_json())

    def drain(self, timeout_seconds: float) -> None:
        """Refuse what is new, and wait for what is under way."""
        self._native.drain(timeout_seconds)


def check(config: GatewayConfig, *, folder: Path = Path()) -> None:
    """Look whether a data plane could be started with `config`; nothing is started.

    Raises:
        GatewayError: it couldn't; says why.
    """
    surroundings: dict[str, Any] = {
        **dict.fromkeys(("access_log", "certificate", "key", "shared_limits")),
        "admin_credential": "",
    }
    hooks = dict.fromkeys(config.hooks, ("127.0.0.1:1",))  # nobody is asked
    try:
        _native.DataPlane.check(_document(config, surroundings, folder, hooks))
    except (ValueError, RuntimeError) as error:
        raise _refused(error) from error


def document(config: GatewayConfig, *, folder: Path = Path()) -> dict[str, Any]:
    """What the data plane is told of `config` itself, without what is around it; secrets are in it.

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
    """What the native side is told: the configuration, complete, and what is around it."""
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
    """With paths that hold wherever a process stands, and files that are there.

    Raises:
        GatewayError: one is missing.
    """
    _placed(folder, "acme.ca_file", acme.ca_file)
    if acme.external_account is not None:
        _placed(folder, "acme.external_account.key_file", acme.external_account.key_file)
    return acme.placed(folder)


def _placed(folder: Path, setting: str, file: str | None) -> str | None:
    """The path of a file that is there, wherever a process stands; nothing for what isn't set.

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
    """With paths that hold wherever a process stands, and nothing for what isn't set."""
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
