"""`counterfoil events lag | topics | read`: the log and its consumers, looked at from outside."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from counterfoil.cli.options import Folder, Json, Limit, Seconds, State, state_folder


def lag(
    path: Folder = Path(),
    *,
    watch: bool = False,
    every: Seconds = 2.0,
    state: State = None,
    as_json: Json = False,
) -> None:
    """Show how far each consumer is behind the end of its topic.

    Examples: counterfoil events lag examples/shop
              counterfoil events lag examples/shop --watch

    Parameters
    ----------
    watch
        Look again and again, with rates and the time until nothing is left, until Ctrl-C; with
        --json, a line for each look.
    every
        Seconds between two looks.
    """
    from counterfoil.cli.inspection import events_of, print_lag, watch_lag  # noqa: PLC0415

    events = events_of(path, state_folder(path, state))
    if watch:
        watch_lag(events, every, as_json=as_json)
    else:
        print_lag(events, as_json=as_json)


def topics(path: Folder = Path(), *, state: State = None, as_json: Json = False) -> None:
    """Show the topics: partitions, their ends, and how evenly the keys fall on them.

    Example: counterfoil events topics examples/shop
    """
    from counterfoil.cli.inspection import application_and_events, print_topics  # noqa: PLC0415

    print_topics(*application_and_events(path, state_folder(path, state)), as_json=as_json)


def forget(consumer: str, path: Folder = Path(), *, state: State = None) -> None:
    """Forget how far a consumer has come that was taken out of the application.

    The embedded log keeps what a consumer has not read, however old. With its
    positions go its state and its timers; transfers and dead letters stay. If
    it is ever declared again under this name, it begins with the oldest events,
    and with nothing.

    Example: counterfoil events forget old-pipeline examples/shop

    Parameters
    ----------
    consumer
        Its name, as `counterfoil events lag` shows it.
    """
    from counterfoil.cli.inspection import application_and_events, forget_consumer  # noqa: PLC0415

    forget_consumer(*application_and_events(path, state_folder(path, state)), consumer)


def read(
    topic: str,
    path: Folder = Path(),
    *,
    start: Annotated[str, Parameter("--from")] = "0",
    partition: Annotated[int | None, Parameter(validator=Number(gte=0))] = None,
    limit: Limit = 100,
    state: State = None,
    as_json: Json = False,
) -> None:
    """Read a topic from an offset or a moment on, without moving anybody's position.

    With --json there is a line for each record.

    Examples: counterfoil events read payments examples/shop --from 15m --limit 20
              counterfoil events read payments examples/shop --partition 2 --from 4711 --json

    Parameters
    ----------
    topic
        Its name, as `counterfoil events topics` shows it.
    start
        An offset of each partition; or a moment, 2026-03-01T12:30 (UTC) or an age such as 15m: on
        Kafka of the records' arrival, on the embedded engine of the events themselves.
    partition
        Of this partition alone.
    """
    from counterfoil.cli.inspection import application_and_events, print_records  # noqa: PLC0415

    application, events = application_and_events(path, state_folder(path, state))
    print_records(
        application,
        events,
        topic,
        start=start,
        partition=partition,
        limit=limit,
        as_json=as_json,
    )
