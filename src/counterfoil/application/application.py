"""The declaration of an application: its services, topics, pipelines, sagas and reports."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Literal, TypeVar, overload

import msgspec

from counterfoil.application.configuration import ConfigurationError
from counterfoil.application.counterfoils import Counterfoils, Workload
from counterfoil.application.service import Service
from counterfoil.events import (
    KEEP_SECONDS,
    LEAST_KEEP_SECONDS,
    Choreography,
    Context,
    EventTime,
    Joined,
    KafkaEvents,
    Migration,
    Parallel,
    Pipeline,
    Saga,
    StatelessContext,
    TaskQueue,
    Timer,
    Topic,
    Windowed,
)
from counterfoil.events.dead_letters import dead_letter_topic, retry_topic
from counterfoil.events.joins import Kind
from counterfoil.events.parallel import Order
from counterfoil.events.parallel.parallel import CONCURRENCY
from counterfoil.events.schemas import Compatibility, Format
from counterfoil.events.tasks.queue import CONCURRENCY as TASKS_AT_ONCE
from counterfoil.events.tasks.queue import TRIES as TASK_TRIES
from counterfoil.events.tasks.queue import VISIBILITY_SECONDS
from counterfoil.events.windows import Emit, Shape
from counterfoil.gateway.hooks import Hook
from counterfoil.reports import Report, Table

LAKE: Final = "lake"
Body = TypeVar("Body", bound=msgspec.Struct)
Answer = TypeVar("Answer", bound=msgspec.Struct)
Event = TypeVar("Event", bound=msgspec.Struct)

EachHandler = Callable[[Event, Context], None]
BatchHandler = Callable[[list[tuple[Event, Context]]], None]
StatelessHandler = Callable[[Event, StatelessContext], None]
StatelessBatchHandler = Callable[[list[tuple[Event, StatelessContext]]], None]
TimerHandler = Callable[[Timer, Context], None]
State = TypeVar("State")
Left = TypeVar("Left", bound=msgspec.Struct)
Right = TypeVar("Right", bound=msgspec.Struct)
InnerHandler = Callable[[Left, Right, Context], None]
LeftHandler = Callable[[Left, Right | None, Context], None]
OuterHandler = Callable[[Left | None, Right | None, Context], None]


class Application:
    """The declaration of a whole backend. Declaring starts nothing and opens nothing."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.services: dict[str, Service] = {}
        self.topics: dict[str, Topic[Any]] = {}
        self.pipelines: dict[str, Pipeline[Any]] = {}
        self.parallels: dict[str, Parallel[Any, Any]] = {}
        self.queues: dict[str, TaskQueue[Any]] = {}
        self.sagas: dict[str, Saga[Any]] = {}
        self.choreographies: dict[str, Choreography] = {}
        self.stores: dict[str, tuple[Topic[Any], Table[Any]]] = {}
        self.reports: dict[str, Report] = {}
        self.hooks: dict[str, Hook] = {}
        self.counterfoils: Counterfoils | None = None
        self.make_workload: Workload | None = None

    def service(
        self,
        name: str,
        *,
        schema: Sequence[str] = (),
        migrations: Sequence[Migration] = (),
        keep_seconds: float = KEEP_SECONDS,
    ) -> Service:
        """Declare a service; `schema` is SQL that creates its tables if they don't exist.

        `migrations` change the tables afterwards. Each is applied once, in order: append new ones,
        and never change an applied one. Once there is a migration, `schema` must not change.

        Answers to Idempotency-Keys are kept for `keep_seconds` (30 days by default); a key that is
        repeated later runs its command again. Sent events stay in the outbox for the same time, for
        `counterfoil trace` and the proof.

        Raises:
            ConfigurationError: the name is taken, or `keep_seconds` is less than a day.
        """
        if not keep_seconds >= LEAST_KEEP_SECONDS:
            raise ConfigurationError(
                f"service {name}: keep_seconds must be {LEAST_KEEP_SECONDS} or more",
                hint="clients that were away for a night repeat their requests in the morning",
            )
        service = Service(name, tuple(schema), tuple(migrations), keep_seconds)
        return _declare(self.services, name, service, "service")

    def topic(
        self,
        name: str,
        event: type[Event],
        *,
        partitions: int = 4,
        retention_seconds: int | None = None,
        compacted: bool = False,
        format: Format = "json",
        compatibility: Compatibility = "BACKWARD",
    ) -> Topic[Event]:
        """Declare a topic of typed events, ordered by key.

        Events are kept for `retention_seconds`, or forever by default. The proof counts what is in
        the log, so retention must be longer than a proof takes.

        A `compacted` topic keeps only the newest event of each key, for pipelines that read the
        topic as a table: Kafka deletes the older ones.

        For the formats `avro` and `protobuf`, the type's schema is registered when the application
        starts. A schema that is incompatible with the last version prevents the start.

        Raises:
            UnmappableType: the format can't represent the type; names the field.
        """
        topic = Topic(
            name,
            event,
            partitions=partitions,
            retention_seconds=retention_seconds,
            compacted=compacted,
            format=format,
            compatibility=compatibility,
        )
        return _declare(self.topics, name, topic, "topic")

    @overload
    def pipeline(
        self,
        name: str,
        source: Topic[Event],
        *,
        tries: int = 3,
        batch: Literal[False] = False,
        stateless: Literal[False] = False,
        commit_limit: int = 1_000,
        event_time: EventTime[Event] | None = None,
        tables: Sequence[Topic[Any]] = (),
    ) -> Callable[[EachHandler[Event]], EachHandler[Event]]: ...

    @overload
    def pipeline(
        self,
        name: str,
        source: Topic[Event],
        *,
        tries: int = 3,
        batch: Literal[True],
        stateless: Literal[False] = False,
        commit_limit: int = 1_000,
        event_time: EventTime[Event] | None = None,
        tables: Sequence[Topic[Any]] = (),
    ) -> Callable[[BatchHandler[Event]], BatchHandler[Event]]: ...

    @overload
    def pipeline(
        self,
        name: str,
        source: Topic[Event],
        *,
        tries: int = 3,
        batch: Literal[False] = False,
        stateless: Literal[True],
        commit_limit: int = 1_000,
    ) -> Callable[[StatelessHandler[Event]], StatelessHandler[Event]]: ...

    @overload
    def pipeline(
        self,
        name: str,
        source: Topic[Event],
        *,
        tries: int = 3,
        batch: Literal[True],
        stateless: Literal[True],
        commit_limit: int = 1_000,
    ) -> Callable[[StatelessBatchHandler[Event]], StatelessBatchHandler[Event]]: ...

    def pipeline(
        self,
        name: str,
        source: Topic[Event],
        *,
        tries: int = 3,
        batch: bool = False,
        stateless: bool = False,
        commit_limit: int = 1_000,
        event_time: EventTime[Event] | None = None,
        tables: Sequence[Topic[Any]] = (),
    ) -> Callable[[Callable[..., None]], Callable[..., None]]:
        """Declare the handler of a pipeline; it takes effect exactly once for each event.

        The handler gets an event and its context or, with `batch`, a list of such pairs. A
        `stateless` handler may only emit: no state, no ledger, no SQL. On Kafka it then runs within
        Kafka's transactions, without a database. At most `commit_limit` events of each partition
        share a commit: a lower limit reduces latency, a higher one the cost per event.

        `event_time` gives the pipeline a watermark, and event-time timers in addition to
        processing-time ones (`timer`). `tables` are topics whose newest event per key is kept;
        handlers read it with `context.row(topic, key)`.
        """

        def declare(handler: Callable[..., None]) -> Callable[..., None]:
            pipeline = Pipeline(
                name,
                source,
                handler,
                tries=tries,
                batch=batch,
                stateless=stateless,
                commit_limit=commit_limit,
                event_time=event_time,
                tables=tuple(tables),
            )
            self._name_pipeline(name)
            _declare(self.pipelines, name, pipeline, "pipeline")
            return handler

        return declare

    def timer(self, pipeline: str) -> Callable[[TimerHandler], TimerHandler]:
        """Declare the handler of a pipeline's timers, which `context.timers` sets.

        The handler takes effect exactly once for each timer, in a commit of the pipeline.

        Raises:
            ConfigurationError: there is no such pipeline yet, or it has a timer handler already.
        """

        def declare(handler: TimerHandler) -> TimerHandler:
            declared = self.pipelines.get(pipeline)
            if declared is None:
                raise ConfigurationError(
                    f"there is no pipeline {pipeline!r} whose timers could fire",
                    hint=f'declare @app.pipeline("{pipeline}", ...) before them',
                )
            if declared.timer is not None:
                raise ConfigurationError(
                    f"the timers of {pipeline!r} are declared twice", hint="join the handlers"
                )
            self.pipelines[pipeline] = replace(declared, timer=handler)
            return handler

        return declare

    def window(
        self,
        name: str,
        source: Topic[Event],
        shape: Shape,
        state: type[State],
        *,
        event_time: EventTime[Event],
        key: Callable[[Event], str] | None = None,
        lateness_seconds: float = 0.0,
        late: Topic[Event] | None = None,
        emit: Emit = "close",
        tries: int = 3,
        commit_limit: int = 1_000,
    ) -> Callable[[Callable[[State, Event], State]], Windowed[Event, State]]:
        """Declare a pipeline that folds events into windows of event time, by key.

        The handler takes a window's value, initially `state()`, and an event, and returns the new
        value. On the result, `then` declares what happens exactly once when a window closes, and
        `merge` how two sessions are merged. A window closes when the watermark is
        `lateness_seconds` past its end. Later events are counted, and sent to the topic `late` if
        it is given.
        """

        def declare(fold: Callable[[State, Event], State]) -> Windowed[Event, State]:
            windowed = Windowed(
                name,
                source,
                shape,
                state,
                fold,
                event_time=event_time,
                key=key,
                lateness_seconds=lateness_seconds,
                late=late,
                emit=emit,
                tries=tries,
                commit_limit=commit_limit,
            )
            self._name_pipeline(name)
            _declare(self.pipelines, name, windowed.pipeline(), "pipeline")
            return windowed

        return declare

    @overload
    def join(
        self,
        name: str,
        left: Topic[Left],
        right: Topic[Right],
        *,
        within_seconds: float,
        event_time: EventTime[Left | Right],
        kind: Literal["inner"] = "inner",
        key: Callable[[Left | Right], str] | None = None,
        lateness_seconds: float = 0.0,
        late_left: Topic[Left] | None = None,
        late_right: Topic[Right] | None = None,
        tries: int = 3,
        commit_limit: int = 1_000,
    ) -> Callable[[InnerHandler[Left, Right]], InnerHandler[Left, Right]]: ...

    @overload
    def join(
        self,
        name: str,
        left: Topic[Left],
        right: Topic[Right],
        *,
        within_seconds: float,
        event_time: EventTime[Left | Right],
        kind: Literal["left"],
        key: Callable[[Left | Right], str] | None = None,
        lateness_seconds: float = 0.0,
        late_left: Topic[Left] | None = None,
        late_right: Topic[Right] | None = None,
        tries: int = 3,
        commit_limit: int = 1_000,
    ) -> Callable[[LeftHandler[Left, Right]], LeftHandler[Left, Right]]: ...

    @overload
    def join(
        self,
        name: str,
        left: Topic[Left],
        right: Topic[Right],
        *,
        within_seconds: float,
        event_time: EventTime[Left | Right],
        kind: Literal["outer"],
        key: Callable[[Left | Right], str] | None = None,
        lateness_seconds: float = 0.0,
        late_left: Topic[Left] | None = None,
        late_right: Topic[Right] | None = None,
        tries: int = 3,
        commit_limit: int = 1_000,
    ) -> Callable[[OuterHandler[Left, Right]], OuterHandler[Left, Right]]: ...

    def join(
        self,
        name: str,
        left: Topic[Left],
        right: Topic[Right],
        *,
        within_seconds: float,
        event_time: EventTime[Left | Right],
        kind: Kind = "inner",
        key: Callable[[Left | Right], str] | None = None,
        lateness_seconds: float = 0.0,
        late_left: Topic[Left] | None = None,
        late_right: Topic[Right] | None = None,
        tries: int = 3,
        commit_limit: int = 1_000,
    ) -> Callable[[Callable[..., None]], Callable[..., None]]:
        """Declare a pipeline that joins two topics by key and event time.

        The handler gets every pair of events at most `within_seconds` apart, exactly once. A `left`
        join also passes events of the left topic that found no partner, with None for the other,
        once the watermark is `within_seconds` plus `lateness_seconds` past them; an `outer` join
        does so for both topics. Later events are counted, and sent to the topics `late_left` and
        `late_right` if these are given.

        Raises:
            EventsError: both topics are the same, or a duration is negative.
        """

        def declare(handler: Callable[..., None]) -> Callable[..., None]:
            joined = Joined(
                name,
                left,
                right,
                handler,
                within_seconds=within_seconds,
                event_time=event_time,
                kind=kind,
                key=key,
                lateness_seconds=lateness_seconds,
                late_left=late_left,
                late_right=late_right,
                tries=tries,
                commit_limit=commit_limit,
            )
            self._name_pipeline(name)
            _declare(self.pipelines, name, joined.pipeline(), "pipeline")
            return handler

        return declare

    def parallel(
        self,
        name: str,
        source: Topic[Event],
        *,
        order: Order = "key",
        subkey: Callable[[Event], str] | None = None,
        concurrency: int = CONCURRENCY,
        tries: int = 3,
    ) -> Callable[[Callable[[Event], Any]], Parallel[Event, Any]]:
        """Declare a pipeline for slow work: many events concurrently, in order by key.

        The handler is a function, which runs in a thread, or a coroutine function. It may run more
        than once for an event; `then`, on the result, declares what happens exactly once.
        """

        def declare(work: Callable[[Event], Any]) -> Parallel[Event, Any]:
            declared: Parallel[Event, Any] = Parallel(
                name,
                source,
                work,
                order=order,
                subkey=subkey,
                concurrency=concurrency,
                tries=tries,
            )
            self._name_pipeline(name)
            return _declare(self.parallels, name, declared, "pipeline")

        return declare

    def tasks(
        self,
        name: str,
        task: type[Event],
        *,
        concurrency: int = TASKS_AT_ONCE,
        tries: int = TASK_TRIES,
        visibility_seconds: float = VISIBILITY_SECONDS,
    ) -> Callable[[Callable[[Event], Any]], TaskQueue[Event]]:
        """Declare a task queue and its handler, a function or a coroutine function.

        Send tasks with `queue.send(unit, task)`; `then`, on the queue, declares what happens
        exactly once with a task's result.
        """

        def declare(work: Callable[[Event], Any]) -> TaskQueue[Event]:
            queue = TaskQueue(
                name,
                task,
                work,
                concurrency=concurrency,
                tries=tries,
                visibility_seconds=visibility_seconds,
            )
            return _declare(self.queues, name, queue, "task queue")

        return declare

    def saga(
        self, name: str, source: Topic[Event], *, timeout_seconds: float | None = None
    ) -> Saga[Event]:
        """Declare a saga that starts for each event of `source`; declare its steps on the result.

        An instance that has not completed after `timeout_seconds` is compensated.
        """
        self._name_saga(name)
        self.sagas[name] = Saga(name, source, timeout_seconds=timeout_seconds)
        return self.sagas[name]

    def choreography(
        self, name: str, source: Topic[Any], *, timeout_seconds: float
    ) -> Choreography:
        """Declare a choreographed saga, carried out by pipelines through events, to trace it.

        An instance that has not ended after `timeout_seconds` is shown as stuck.
        """
        self._name_saga(name)
        self.choreographies[name] = Choreography(name, source, timeout_seconds=timeout_seconds)
        return self.choreographies[name]

    def _name_pipeline(self, name: str) -> None:
        if name.startswith(f"{LAKE}."):
            raise ConfigurationError(
                f"{name!r} is a name of the lake's", hint="rename the pipeline"
            )
        if name in self.pipelines or name in self.parallels:
            raise ConfigurationError(f"the pipeline {name!r} is declared twice", hint="rename one")

    def _name_saga(self, name: str) -> None:
        if name in self.sagas or name in self.choreographies:
            raise ConfigurationError(f"the saga {name!r} is declared twice", hint="rename one")

    def all_topics(self) -> list[Topic[Any]]:
        """The declared topics, and those that belong to pipelines, sagas and tables."""
        own = [topic for each in self.pipelines.values() for topic in each.topics()[1:]]
        own += [topic for each in self.parallels.values() for topic in each.topics()[1:]]
        own += [topic for each in self.queues.values() for topic in each.pipeline().topics()]
        own += [topic for each in self.sagas.values() for topic in each.own_topics()]
        own += [topic for table in self.stores for topic in self.lake_topics(table)]
        return [*self.topics.values(), *own]

    def consumers(self) -> set[str]:
        """The names of the declared consumers; offsets are stored under them."""
        return set(self.consumer_names())

    def consumer_names(self) -> list[str]:
        """The same, with duplicates."""
        return [
            *self.pipelines,
            *self.parallels,
            *(f"{name}.letters" for name in self.pipelines),
            *(queue.consumer for queue in self.queues.values()),
            *(saga.consumer for saga in self.sagas.values()),
            *(each.consumer for each in self.choreographies.values()),
            *([LAKE] if self.stores else []),
        ]

    def state_keepers(self) -> list[str]:
        """The names under which handlers keep state (`context.state`, `step.state`)."""
        return [
            *self.pipelines,
            *self.parallels,
            *(queue.consumer for queue in self.queues.values()),
            *(saga.consumer for saga in self.sagas.values()),
        ]

    def position_holders(self) -> list[str]:
        """The names under which positions are stored in Kafka: outboxes and stateless pipelines."""
        stateless = [name for name, each in self.pipelines.items() if each.stateless]
        return [*self.services, KafkaEvents.PIPELINES, *stateless]

    def store(self, source: Topic[Event], *, day: str = "day") -> Table[Event]:
        """Store every event of `source` in a lake table of the same name, partitioned by `day`.

        Raises:
            ReportsError: a field's type has no column type, or `day` is not a text field.
        """
        table = Table(source.name, source.type, day=day)
        table.columns()
        _declare(self.stores, source.name, (source, table), "table")
        return table

    def lake_name(self, table: str) -> str:
        """The consumer name of a table, which also names its dead letters."""
        return f"{LAKE}.{table}"

    def lake_topics(self, table: str) -> tuple[Topic[Any], Topic[Any]]:
        """The retry topic and the dead-letter topic of a table."""
        (source, _), name = self.stores[table], self.lake_name(table)
        return source.beside(retry_topic(name)), source.beside(dead_letter_topic(name))

    def hook(self, name: str) -> Callable[[Hook], Hook]:
        """Declare a hook, which may refuse or annotate requests before they reach a service.

        Configure it as `[gateway.hooks.NAME]`, and list it in the `hooks` of routes.
        """

        def declare(hook: Hook) -> Hook:
            return _declare(self.hooks, name, hook, "hook")

        return declare

    def report(
        self,
        name: str,
        source: Table[Any],
        sections: Mapping[str, str],
        *,
        title: str,
        amounts: tuple[str, ...] = (),
    ) -> Report:
        """Declare a daily report: a SQL query for each section, with a column `day`."""
        report = Report(name, source, sections, title=title, amounts=amounts)
        return _declare(self.reports, name, report, "report")

    def matches(self, counterfoils: Counterfoils) -> None:
        """Declare what the proof reconciles, from request to report.

        Raises:
            ConfigurationError: the topic is not in JSON, the only format the proof can read.
        """
        if counterfoils.topic.format != "json":
            raise ConfigurationError(
                f"the topic {counterfoils.topic.name} is in {counterfoils.topic.format}, and the "
                "proof reads the log without the code, and the schemas, of those who wrote it",
                hint='declare it in JSON, with format="json"',
            )
        self.counterfoils = counterfoils

    def workload(self, make: Workload) -> Workload:
        """Declare the requests that `prove` sends: `make(number, seed)` yields them in order."""
        self.make_workload = make
        return make


Declared = TypeVar("Declared")


def _declare(known: dict[str, Declared], name: str, thing: Declared, kind: str) -> Declared:
    if name in known:
        raise ConfigurationError(f"the {kind} {name!r} is declared twice", hint="rename one")
    known[name] = thing
    return thing
