"""The gateway's process: the native data plane, which gets its instances from coordination. SIGHUP
reloads its part of `counterfoil.toml`. It listens for clients once instances are known."""

import signal
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from types import FrameType
from typing import TYPE_CHECKING, Final

import msgspec
import structlog

from counterfoil.application import Configuration, load
from counterfoil.coordination import Instance, Registry
from counterfoil.errors import CounterfoilError
from counterfoil.supervisor.engines import secret
from counterfoil.supervisor.host import Host
from counterfoil.supervisor.plan import hook_processes

if TYPE_CHECKING:
    from counterfoil.gateway.acme.keeper import Keeper
    from counterfoil.gateway.config import GatewayConfig
    from counterfoil.gateway.data_plane import DataPlane

POLL_SECONDS: Final = 0.2
"""Between two checks for a stop or a reload; also while waiting for instances, since a reload may
be what makes them available."""
log = structlog.get_logger()


def gateway(host: Host) -> None:
    """The native data plane."""
    reload_wanted = threading.Event()

    def want_reload(_number: int, _frame: FrameType | None) -> None:
        reload_wanted.set()

    signal.signal(signal.SIGHUP, want_reload)
    plane = _start(host)
    keeper = _keeper(host, plane)
    directory = _Directory(plane, host)
    following = threading.Thread(target=directory.follow, name="discovery", daemon=True)
    following.start()

    def look() -> None:
        _check(following)
        if reload_wanted.is_set():
            reload_wanted.clear()
            _reload(host, plane, directory, keeper)

    open_when_known(host, plane, look)
    host.ready(host.addresses.gateway)
    while not host.stop.wait(POLL_SECONDS):
        look()
    keeper.stop()
    plane.drain(5.0)


def _check(following: threading.Thread) -> None:
    if not following.is_alive():
        raise CounterfoilError("the gateway lost its view of the registry")


def open_when_known(host: Host, plane: "DataPlane", look: Callable[[], None]) -> None:
    """Open the clients' port once instances are known: until then, clients are better off with the
    gateway that has the port, or with a retried connection, than with a 503. The wait is limited,
    so that one missing service doesn't block the others. `look` is called several times a second
    until then, and once more before the port is opened."""
    longest = host.configuration.gateway.start_wait_seconds
    deadline = time.monotonic() + longest
    while True:
        look()
        left = deadline - time.monotonic()
        unknown = plane.await_instances(min(left, POLL_SECONDS), host.stop)
        if host.stop.is_set():
            return
        if not unknown or left <= POLL_SECONDS:
            break
    look()
    if unknown:
        log.warning("opened_without_instances", services=unknown, waited_seconds=longest)
    plane.open()


def in_force(host: Host, configuration: Configuration) -> "GatewayConfig":
    """The gateway's configuration with what this run overrides: its addresses, and the development
    issuer if there is one. With free ports, as in a proof, ACME is off, because directories could
    not reach the hosts and failures would count against the hosts' limits; so is the PROXY
    protocol, because there is no load balancer."""
    gateway = configuration.gateway
    issuers = gateway.issuers
    if issuers and configuration.issuer is not None:
        base = f"http://{host.addresses.issuer}"
        first = msgspec.structs.replace(issuers[0], issuer=base, jwks_url=f"{base}/jwks.json")
        issuers = (first, *issuers[1:])
    said, started = gateway, host.configuration.gateway
    return msgspec.structs.replace(
        gateway,
        # A changed address is passed on to the data plane, which refuses it.
        listen=host.addresses.gateway if said.listen == started.listen else said.listen,
        admin=host.addresses.admin if said.admin == started.admin else said.admin,
        acme=None if host.addresses.free_ports else said.acme,
        proxy_protocol=said.proxy_protocol and not host.addresses.free_ports,
        identity=issuers,
    )


def _start(host: Host) -> "DataPlane":
    from counterfoil.gateway.data_plane import DataPlane, SharedLimits  # noqa: PLC0415
    from counterfoil.gateway.tls import development_certificate  # noqa: PLC0415

    configuration = in_force(host, host.configuration)
    certificate = key = None
    if configuration.tls == "development":
        _, certificate, key = development_certificate(host.state.tls, datetime.now(UTC))
    shared_limits = None
    if host.configuration.engines.limits == "redis":
        shared_limits = SharedLimits(
            host.addresses.engines["redis"],
            host.application.name,
            password=secret("redis", host.configuration, host.state) or "",
        )
    return DataPlane(
        configuration,
        access_log=host.state.access_log,
        admin_credential=host.state.credential(),
        certificate=certificate,
        key=key,
        shared_limits=shared_limits,
        folder=host.folder,
        opened=False,
        hooks={
            name: [
                host.addresses.services[process]
                for process in hook_processes(host.configuration, name)
            ]
            for name in configuration.hooks
        },
    )


def _keeper(host: Host, plane: "DataPlane") -> "Keeper":
    """Publishes the existing certificates of the directory, and keeps them from now on."""
    from counterfoil.gateway.acme.folder import FolderStore  # noqa: PLC0415
    from counterfoil.gateway.acme.keeper import Keeper  # noqa: PLC0415
    from counterfoil.gateway.acme.shared import SharedStore  # noqa: PLC0415

    # With etcd, gateways on other machines share these hosts; the embedded node has this one only.
    shared = host.configuration.engines.coordination == "etcd"
    store = SharedStore(host.coordination()) if shared else FolderStore(host.state.acme)
    keeper = Keeper(plane.certify, store)
    if host.configuration.gateway.acme and host.addresses.free_ports:
        log.info("acme_left_out", reason="a run on free ports orders nothing")
    _keep(host, keeper, in_force(host, host.configuration))
    return keeper


def _keep(host: Host, keeper: "Keeper", gateway: "GatewayConfig") -> None:
    keeper.use(gateway.acme.placed(host.folder) if gateway.acme else None)


def _reload(host: Host, plane: "DataPlane", directory: "_Directory", keeper: "Keeper") -> None:
    try:
        wanted = in_force(host, load(host.folder))
        version = plane.reload(wanted, instances=directory.known())
    except CounterfoilError as error:
        log.warning("reload_refused", error=str(error))
        return
    directory.tell()
    _keep(host, keeper, wanted)
    log.info("reloaded", version=version)


class _Directory:
    """The instances from coordination, passed on to the data plane."""

    def __init__(self, plane: "DataPlane", host: Host) -> None:
        self._plane = plane
        self._host = host
        self._lock = threading.Lock()
        self._known: Mapping[str, list[Instance]] = {}

    def follow(self) -> None:
        """Follow all changes until the process ends."""
        for known in Registry(self._host.coordination()).watch(self._host.stop):
            with self._lock:
                self._known = known
            self.tell()

    def known(self) -> dict[str, list[tuple[str, str]]]:
        """The instances of each service, in the data plane's format."""
        with self._lock:
            return {name: _addresses(found) for name, found in self._known.items()}

    def tell(self) -> None:
        """Pass the instances of each routed service to the data plane."""
        with self._lock:
            for name in self._plane.state()["services"]:
                try:
                    self._plane.set_endpoints(name, _addresses(self._known.get(name, [])))
                except CounterfoilError as error:
                    # A reload has just removed its routes, and calls `tell` again.
                    log.info("service_without_routes", service=name, error=str(error))


def _addresses(instances: list[Instance]) -> list[tuple[str, str]]:
    return [(each.instance, each.address) for each in instances]
