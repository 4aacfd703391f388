"""The main functions of all kinds of processes, which assemble the parts."""

import threading
from collections.abc import Callable, Mapping
from contextlib import closing
from functools import cache
from types import MappingProxyType
from typing import Any, Final

import structlog

from counterfoil.coordination import (
    Instance,
    Leadership,
    MachineIds,
    Membership,
    Snowflakes,
)
from counterfoil.errors import CounterfoilError
from counterfoil.events import (
    KEEP_SECONDS,
    ChoreographyTracer,
    DeadLetters,
    EmbeddedEvents,
    EventsError,
    ExchangeLog,
    LogPipelineRunner,
    LogUnavailable,
    ParallelRunner,
    Pipeline,
    PipelineRunner,
    Relay,
    SagaCoordinator,
    ServiceStore,
    Share,
    SourceRetention,
    StoreUnavailable,
    TaskWorker,
    TermOver,
    declare_schemas,
)
from counterfoil.events.retention import GIVE_WAY_SECONDS
from counterfoil.supervisor import hot_keys
from counterfoil.supervisor.gateway_process import gateway
from counterfoil.supervisor.host import LEASE_SECONDS, Host, now_us
from counterfoil.supervisor.plan import pipeline_processes

IDLE_SECONDS: Final = 0.01
"""Between two polls of an empty source: short next to a commit to disk."""
RETRY_SECONDS: Final = 0.5
"""Between retries while an engine is unavailable: it may last, and each retry logs a line."""
TROUBLE_SECONDS: Final = 2.0
"""How long steps must fail before the supervisor is told: a busy lock is not reported."""
STORE_SECONDS: Final = 1.0
REPORT_SECONDS: Final = 1.0
RETENTION_SECONDS: Final = 10.0
"""Between two deletions of old records. When records expire continuously, deleting each one at once
would cost a transaction each, and block writers."""
LOGGED_SECONDS: Final = 60.0
"""Between two log lines about hot keys; their file is written more often."""
HOT_SHARE: Final = 0.1
"""A key with a tenth of the events delays the keys next to it under load."""
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
    """The issuer with this application's key; whoever can read the key can make tokens."""
    from counterfoil.gateway.issuer import DevelopmentIssuer  # noqa: PLC0415

    issuers = host.configuration.gateway.issuers
    audience = issuers[0].audience if issuers else host.application.name
    return DevelopmentIssuer(
        f"http://{host.addresses.issuer}", audience, host.state.root / "issuer.key"
    )


def service(host: Host) -> None:
    """One instance of a service."""
    from counterfoil.application.queries import Queries  # noqa: PLC0415
    from counterfoil.application.web import web_application  # noqa: PLC0415

    declared = host.application.services[host.target]
    client = host.coordination()
    ids = Snowflakes(MachineIds(client), host.name, lambda: now_us() // 1_000)
    events = host.events()
    declare_schemas(host.application.all_topics(), events.registry)
    store = ServiceStore(
        events.service(host.target),
        declared.schema,
        migrations=declared.migrations,
        next_id=ids.next_id,
        clock_us=now_us,
        topics=host.application.all_topics(),
    )
    address = host.addresses.services[host.name]
    memberships: list[Membership] = []

    def register() -> None:
        memberships.append(
            Membership(client, Instance(host.target, host.name, address), ttl_seconds=LEASE_SECONDS)
        )

    queries = Queries(
        events, host.target, host.application.pipelines, host.application.state_keepers()
    )
    host.serve(web_application(declared, store, queries), address, register)
    for membership in memberships:
        membership.close()
    queries.close()
    store.close()


def relay(host: Host) -> None:
    """A candidate for relaying one source's outbox to the log; one candidate leads."""
    events = host.events()
    event_log = events.log()
    event_log.declare(host.application.all_topics())
    declared = host.application.services.get(host.target)
    keep_seconds = KEEP_SECONDS if declared is None else declared.keep_seconds

    def lead(fencing_token: int, held: Callable[[], bool]) -> None:
        database = events.service(host.target)
        retention = SourceRetention(database, keep_seconds, answers=declared is not None)
        with (
            closing(retention),
            closing(events.outbox(host.target)) as outbox,
            closing(event_log.appender(host.target, fencing_token)) as appender,
        ):
            relay = Relay(outbox, appender, lambda moved: retention.step(now_us(), moved))
            _repeat(host, relay.step, while_=held)

    _lead(host, f"relay/{host.target}", lead)


def pipeline(host: Host) -> None:
    """One pipeline, or one process's share of it."""
    events = host.events()
    event_log = events.log()
    event_log.declare(host.application.all_topics())
    declared = host.application.pipelines[host.target]
    if declared.stateless and isinstance(event_log, ExchangeLog):
        _exchange(host, event_log, declared)
        return
    runner = PipelineRunner(event_log, events.pipelines(), declared, now_us, _share(host))
    host.ready()
    _repeat(host, runner.step)
    runner.close()


def _exchange(host: Host, event_log: ExchangeLog, declared: Pipeline[Any]) -> None:
    """A candidate for running a share of a pipeline in the log: a new term fences the previous."""
    store = host.events().pipelines()
    share = _share(host)

    def lead(_: int, held: Callable[[], bool]) -> None:
        with closing(LogPipelineRunner(event_log, store, declared, now_us, share)) as runner:
            _repeat(host, runner.step, while_=held)

    _lead(host, f"pipeline/{host.target}{share.name}", lead)


def _share(host: Host) -> Share:
    """The share of the pipeline's partitions that a process has, by the number in its name."""
    number = pipeline_processes(host.configuration, host.target)
    return Share(0 if number == 1 else int(host.name.rpartition("-")[2]) - 1, number)


def parallel(host: Host) -> None:
    """One parallel pipeline over all partitions of its source; reports hot keys."""
    events = host.events()
    event_log = events.log()
    event_log.declare(host.application.all_topics())
    declared = host.application.parallels[host.target]
    runner = ParallelRunner(event_log, events.pipelines(), declared, now_us)
    told_us, logged_us = 0, now_us()

    def tell() -> None:
        nonlocal told_us, logged_us
        now = now_us()
        if now - told_us < hot_keys.TOLD_SECONDS * 1_000_000:
            return
        told_us, load = now, runner.load()
        hot_keys.tell(host.state, host.target, hot_keys.Told(now, runner.held, load))
        if now - logged_us > LOGGED_SECONDS * 1_000_000:
            logged_us = now
            for hot in load:
                if hot.share - hot.error >= HOT_SHARE:
                    log.warning("hot_key", key=hot.key, share=round(hot.share, 3))

    def step() -> int:
        tell()  # first, so that it also happens while the store is unavailable
        return runner.step()

    host.ready()
    _repeat(host, step)
    runner.close()


def tasks(host: Host) -> None:
    """Takes the tasks of one queue from its topic, and runs them."""
    events = host.events()
    event_log = events.log()
    event_log.declare(host.application.all_topics())
    queue = host.application.queues[host.target]
    worker = TaskWorker(events.pipelines(), queue, now_us)
    taking_over = PipelineRunner(event_log, events.pipelines(), queue.pipeline(), now_us)

    def take_over() -> None:
        _repeat(host, taking_over.step)
        taking_over.close()

    beside = threading.Thread(target=take_over, name="take-over")
    beside.start()
    host.ready()

    def step() -> int:
        if not beside.is_alive() and not host.stop.is_set():
            raise CounterfoilError(f"tasks are no longer taken over into {queue.name}")
        return worker.step()

    _repeat(host, step)
    worker.close()
    beside.join()


def saga(host: Host) -> None:
    """A candidate for coordinating a saga; the leader's token fences the others."""
    events = host.events()
    event_log, store = events.log(), events.pipelines()
    event_log.declare(host.application.all_topics())
    declared = host.application.sagas[host.target]

    def lead(fencing_token: int, held: Callable[[], bool]) -> None:
        with closing(
            SagaCoordinator(event_log, store, declared, fencing_token=fencing_token, now_us=now_us)
        ) as coordinator:
            _repeat(host, coordinator.step, while_=held)

    _lead(host, f"saga/{host.target}", lead)


def choreography(host: Host) -> None:
    """Traces a choreographed saga through its events."""
    events = host.events()
    event_log = events.log()
    event_log.declare(host.application.all_topics())
    declared = host.application.choreographies[host.target]
    tracer = ChoreographyTracer(event_log, events.pipelines(), declared, now_us)
    host.ready()
    _repeat(host, tracer.step)
    tracer.close()


def retention(host: Host) -> None:
    """Deletes old records of the embedded log; Kafka's brokers do it themselves."""
    events = host.events()
    assert isinstance(events, EmbeddedEvents)
    events.log().declare(host.application.all_topics())
    forgetting = events.retention(host.application.all_topics())
    host.ready()

    def step() -> int:
        moved = forgetting.step(now_us())
        host.stop.wait(GIVE_WAY_SECONDS if forgetting.behind else RETENTION_SECONDS)
        return moved

    _repeat(host, step)
    forgetting.close()


def lake(host: Host) -> None:
    """Appends every stored topic to its table."""
    from counterfoil.reports import Lake  # noqa: PLC0415
    from counterfoil.supervisor.storing import Storing  # noqa: PLC0415

    events = host.events()
    event_log, store = events.log(), events.pipelines()
    event_log.declare(host.application.all_topics())
    tables, engine = Lake(host.state.lake), host.reports()
    storing = [
        Storing(
            host.application,
            name,
            lake=tables,
            engine=engine,
            event_log=event_log,
            store=store,
            now_us=now_us,
        )
        for name in host.application.stores
    ]
    host.ready()
    _repeat(host, lambda: sum(each.step() for each in storing), every=STORE_SECONDS)


def reports(host: Host) -> None:
    """Recomputes the days that changed, and publishes them."""
    from counterfoil.reports import Lake, ReportRunner  # noqa: PLC0415
    from counterfoil.supervisor.storing import unread  # noqa: PLC0415

    tables, engine = Lake(host.state.lake), host.reports()
    declared = host.application.reports
    runners = {
        name: ReportRunner(tables, report, host.state.reports / name, engine)
        for name, report in declared.items()
    }
    letters = cache(lambda: DeadLetters(host.events().pipelines()))
    host.ready()

    def step() -> int:
        days = 0
        for name, runner in runners.items():
            left_out = unread(host.application, declared[name].source, letters)
            days += len(runner.run(now_us(), unread=left_out).days)
        return days

    _repeat(host, step, every=REPORT_SECONDS)


def hook(host: Host) -> None:
    """One process of a hook."""
    import asyncio  # noqa: PLC0415 - only the processes that listen need a loop

    from counterfoil.gateway.hooks import serve_hook  # noqa: PLC0415

    address = host.addresses.services[host.name]

    async def main() -> None:
        stopped = asyncio.Event()
        serving = asyncio.create_task(
            serve_hook(
                host.application.hooks[host.target], address, stopped, lambda: host.ready(address)
            )
        )
        stopping = asyncio.create_task(asyncio.to_thread(host.stop.wait))
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopped.set()
        await serving

    asyncio.run(main())


def _lead(host: Host, name: str, lead: Callable[[int, Callable[[], bool]], None]) -> None:
    """Campaign for `name`, and call `lead` with each term's token and a check that it is held."""
    leadership = Leadership(host.coordination(), name, host.name, ttl_seconds=LEASE_SECONDS)
    host.ready("candidate")
    while not host.stop.is_set():
        lease = leadership.campaign(host.stop)
        if lease is None:
            break
        log.info("leads", token=lease.fencing_token)
        host.ready("leads")
        try:
            lead(lease.fencing_token, lease.held)
        except (TermOver, LogUnavailable, StoreUnavailable) as error:
            log.warning("term_ended", error=str(error))
            host.stop.wait(RETRY_SECONDS)
        lease.resign()
        host.ready("candidate")


def _repeat(
    host: Host,
    step: Callable[[], int],
    *,
    while_: Callable[[], bool] = lambda: True,
    every: float = IDLE_SECONDS,
) -> None:
    """Call `step` until stopped; pause when it moved nothing or its store was busy.

    While steps keep failing, the supervisor is told why; `counterfoil status` shows it.
    """
    failures, told = 0, False
    while not host.stop.is_set() and while_():
        try:
            moved = step()
        except TermOver:
            raise
        except EventsError as error:
            log.warning("step_failed", error=str(error))
            failures += 1
            if failures * RETRY_SECONDS >= TROUBLE_SECONDS and not told:
                host.trouble(str(error))
                told = True
            host.stop.wait(RETRY_SECONDS)
            continue
        failures = 0
        if told:
            host.trouble("")
            told = False
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
            parallel,
            tasks,
            saga,
            choreography,
            retention,
            lake,
            reports,
            hook,
            gateway,
        )
    }
)
