"""`counterfoil events lag`, `topics`, `forget` and `read`."""

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
        Refresh until Ctrl-C, with rates and the time until it has caught up.
    every
        Seconds between two refreshes.
    """
    from counterfoil.cli.inspection import events_of, print_lag, watch_lag  # noqa: PLC0415

    events = events_of(path, state_folder(path, state))
    if watch:
        watch_lag(events, every, as_json=as_json)
    else:
        print_lag(events, as_json=as_json)


def topics(path: Folder = Path(), *, state: State = None, as_json: Json = False) -> None:
    """Show the topics: partitions, end offsets, and how evenly keys are spread.

    Example: counterfoil events topics examples/shop
    """
    from counterfoil.cli.inspection import application_and_events, print_topics  # noqa: PLC0415

    print_topics(*application_and_events(path, state_folder(path, state)), as_json=as_json)


def forget(consumer: str, path: Folder = Path(), *, state: State = None) -> None:
    """Delete the offsets of a consumer that is no longer declared.

    The embedded log keeps what a consumer has not read, however old. State and
    timers are deleted with the offsets; transfers and dead letters stay. A
    consumer that is declared under this name again begins with the oldest
    events and without state.

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
    """Read a topic from an offset or a time on, without moving any consumer.

    With --json there is a line for each record.

    Examples: counterfoil events read payments examples/shop --from 15m --limit 20
              counterfoil events read payments examples/shop --partition 2 --from 4711 --json

    Parameters
    ----------
    topic
        Its name, as `counterfoil events topics` shows it.
    start
        An offset, a time such as 2026-03-01T12:30 (UTC), or an age such as 15m.
    partition
        Only this partition.
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
