"""What each kind of process does. Parts meet only here: each knows nothing of the others."""

import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Final

import structlog

from counterfoil import faults
from counterfoil.coordination import (
    CoordinationError,
    Instance,
    Leadership,
    MachineIds,
    Membership,
    Registry,
    Snowflake,
)
from counterfoil.errors import CounterfoilError
from counterfoil.events import (
    EmbeddedLog,
    EventsError,
    Fenced,
    OutboxReader,
    PipelineRunner,
    Relay,
    ServiceStore,
)
from counterfoil.supervisor.host import LEASE_SECONDS, Host, now_us

IDLE_SECONDS: Final = 0.01
"""Between two looks at a source that had nothing: small beside a commit to disk."""
STORE_ROWS: Final = 5_000
"""Rows of one append to the lake: a file a day and append should not be tiny."""
STORE_SECONDS: Final = 1.0
REPORT_SECONDS: Final = 1.0
log = structlog.get_logger()


def coordination(host: Host) -> None:
    """The embedded coordination node."""
    from counterfoil.coordination.server import application  # noqa: PLC0415

    host.serve(
        application(host.state.coordination, host.state.credential()), host.addresses.coordination
    )


def issuer(host: Host) -> None:
    """The development OIDC issuer."""
    host.serve(development_issuer(host).application(), host.addresses.issuer)


def development_issuer(host: Host):
    """The issuer with this application's key; whoever may read the key may make tokens."""
    from counterfoil.gateway.issuer import DevelopmentIssuer  # noqa: PLC0415

    identity = host.configuration.gateway.identity
    audience = identity.audience if identity else host.application.name
    return DevelopmentIssuer(
        f"http://{host.addresses.issuer}", audience, host.state.root / "issuer.key"
    )


def service(host: Host) -> None:
    """One instance of a service."""
    from counterfoil.application.web import web_application  # noqa: PLC0415

    declared = host.application.services[host.target]
    client = host.coordination()
    ids = _Snowflakes(host)
    store = ServiceStore(
        host.state.service(host.target), declared.schema, next_id=ids.next_id, clock_us=now_us
    )
    address = host.addresses.services[host.name]
    memberships: list[Membership] = []

    def register() -> None:
        memberships.append(
            Membership(client, Instance(host.target, host.name, address), ttl_seconds=LEASE_SECONDS)
        )

    host.serve(web_application(declared, store), address, register)
    for membership in memberships:
        membership.close()
    store.close()


class _Snowflakes:
    """Ids from a leased machine number; a lost lease is replaced by a new number."""

    def __init__(self, host: Host) -> None:
        self._machine_ids = MachineIds(host.coordination())
        self._holder = host.name
        self._lock = threading.Lock()
        self._snowflake = self._claim()

    def _claim(self) -> Snowflake:
        machine_id = self._machine_ids.claim(self._holder, now_us() // 1_000)
        return Snowflake(machine_id, lambda: now_us() // 1_000)

    def next_id(self) -> int:
        """A new id.

        Raises:
            CoordinationError: no machine number can be had at the moment.
        """
        with self._lock:
            try:
                return self._snowflake.next_id()
            except CoordinationError:
                self._snowflake = self._claim()
                return self._snowflake.next_id()


def relay(host: Host) -> None:
    """A candidate for moving one service's outbox into the log; one of them leads."""
    log_store = EmbeddedLog(host.state.log)
    log_store.declare(host.application.topics.values())
    leadership = Leadership(
        host.coordination(), f"relay/{host.target}", host.name, ttl_seconds=LEASE_SECONDS
    )
    host.ready("candidate")
    while not host.stop.is_set():
        lease = leadership.campaign(host.stop)
        if lease is None:
            break
        log.info("leads", token=lease.fencing_token)
        try:
            moving = Relay(
                OutboxReader(host.state.service(host.target)),
                log_store,
                source=host.target,
                fencing_token=lease.fencing_token,
            )
            _repeat(host, moving.step, while_=lease.held)
        except Fenced as error:
            log.warning("fenced", error=str(error))
        lease.resign()


def pipeline(host: Host) -> None:
    """One pipeline over all partitions of its source."""
    log_store = EmbeddedLog(host.state.log)
    log_store.declare(host.application.topics.values())
    runner = PipelineRunner(log_store, host.application.pipelines[host.target], now_us)
    host.ready()
    _repeat(host, runner.step)


def lake(host: Host) -> None:
    """Moves every stored topic into its table."""
    from counterfoil.reports import Lake  # noqa: PLC0415

    log_store = EmbeddedLog(host.state.log)
    log_store.declare(host.application.topics.values())
    tables = Lake(host.state.lake)
    writers = [(topic, tables.writer(table)) for topic, table in host.application.stores.values()]
    group = "lake"
    host.ready()

    def step() -> int:
        moved = 0
        for topic, writer in writers:
            positions = writer.positions(topic.name, topic.partitions)
            if faults.sabotaged("append-without-transaction"):
                positions = log_store.committed(group, topic.name)
            rows: list[object] = []
            for partition in range(topic.partitions):
                records = log_store.read(
                    topic.name, partition, positions.get(partition, 0), STORE_ROWS
                )
                rows += [topic.decode(record.value) for record in records]
                if records:
                    positions[partition] = records[-1].offset + 1
            if rows:
                writer.append(rows, source=topic.name, positions=positions, now_us=now_us())
                log_store.commit(group, topic.name, positions)
                moved += len(rows)
        return moved

    _repeat(host, step, every=STORE_SECONDS)


def reports(host: Host) -> None:
    """Recomputes the days that changed, and publishes them."""
    from counterfoil.reports import Lake, ReportRunner  # noqa: PLC0415

    tables = Lake(host.state.lake)
    runners = [
        ReportRunner(tables, report, host.state.reports / name)
        for name, report in host.application.reports.items()
    ]
    host.ready()

    def step() -> int:
        return sum(len(runner.run(now_us()).days) for runner in runners)

    _repeat(host, step, every=REPORT_SECONDS)


def gateway(host: Host) -> None:
    """The native data plane, told by coordination where the instances are."""
    import msgspec  # noqa: PLC0415

    from counterfoil.gateway.data_plane import DataPlane  # noqa: PLC0415
    from counterfoil.gateway.tls import development_certificate  # noqa: PLC0415

    configuration = host.configuration.gateway
    identity = configuration.identity
    if identity is not None and host.configuration.issuer is not None:
        base = f"http://{host.addresses.issuer}"
        identity = msgspec.structs.replace(identity, issuer=base, jwks_url=f"{base}/jwks.json")
    configuration = msgspec.structs.replace(
        configuration,
        listen=host.addresses.gateway,
        admin=host.addresses.admin,
        identity=identity,
    )
    certificate = key = None
    if configuration.tls == "development":
        _, certificate, key = development_certificate(host.state.tls, datetime.now(UTC))
    plane = DataPlane(
        configuration,
        access_log=host.state.access_log,
        admin_credential=host.state.credential(),
        certificate=certificate,
        key=key,
    )
    names = set(host.configuration.services)

    def follow() -> None:
        for snapshot in Registry(host.coordination()).watch(host.stop):
            for name in names:
                plane.set_endpoints(
                    name,
                    [(found.instance, found.address) for found in snapshot.get(name, [])],
                )

    following = threading.Thread(target=follow, name="discovery", daemon=True)
    following.start()
    host.ready(host.addresses.gateway)
    while not host.stop.wait(0.5):
        if not following.is_alive():
            raise CounterfoilError("the gateway lost its view of the registry")
    plane.drain(5.0)


def _repeat(
    host: Host,
    step: Callable[[], int],
    *,
    while_: Callable[[], bool] = lambda: True,
    every: float = IDLE_SECONDS,
) -> None:
    """Call `step` until told to stop; rest when it moved nothing or its store was busy."""
    while not host.stop.is_set() and while_():
        try:
            moved = step()
        except Fenced:
            raise
        except EventsError as error:
            log.warning("step_failed", error=str(error))
            moved = 0
        if moved == 0 or every > IDLE_SECONDS:
            host.stop.wait(every)


KINDS: Final[Mapping[str, Callable[[Host], None]]] = MappingProxyType(
    {
        kind.__name__: kind
        for kind in (
            coordination,
            issuer,
            service,
            relay,
            pipeline,
            lake,
            reports,
            gateway,
        )
    }
)
