"""Traces one effect by its id, from the request to its line in the report.

It includes dead letters, the usual reason why an effect gets no further.
"""

import json
from datetime import UTC, datetime
from typing import Final

import msgspec

from counterfoil.application import Application, Counterfoils, StateFolder
from counterfoil.events import EventLog, Record
from counterfoil.proof.reconcile import report_days
from counterfoil.proof.stores import Stores
from counterfoil.reports import Lake, published

ID_DIGITS: Final = 19
"""Of the largest id: a longer number can only be an Idempotency-Key."""


LETTERS_SHOWN: Final = 20
"""An event has one for each pipeline that gave it up, and one more for each failed replay."""
EVENTS: Final = 1_000
"""Events of one command that are searched: more than a command should publish."""


class Step(msgspec.Struct, frozen=True):
    """One stage of the trace: its name, its time (UTC), the place, and the details."""

    name: str
    time: str
    where: str
    what: str
    letter: str | None = None
    """The number of a dead letter."""


def trace(application: Application, stores: Stores, log: EventLog, identity: str) -> list[Step]:
    """The stages that the effect `identity` (its id, or its Idempotency-Key) has passed.

    An empty list means that it is unknown. A list that ends early means that it is under way, or in
    the dead letters at the list's end. Row, lake and report are those of `app.matches`; events of
    other topics have the outbox, the log, transfers with their id, and the sagas they started.
    """
    number = int(identity) if identity.isdigit() and len(identity) <= ID_DIGITS else None
    found = _left(application, stores, number, identity)
    if found is None:
        return _requests(stores.state, number, identity)
    place, effect, counterfoils = stores.described(found.service), found.event, None
    if application.counterfoils is not None and found.topic == application.counterfoils.topic.name:
        counterfoils = application.counterfoils
    steps = _requests(stores.state, effect, identity)
    if counterfoils is not None:
        tenant = json.loads(found.headers).get("tenant", "")
        row = Step(
            "row",
            _time(found.created_us),
            f"{place}, {counterfoils.rows}",
            f"id {effect}, tenant {tenant}",
        )
        steps.append(row)
    what = f"position {found.sequence}, for {found.topic}"
    steps.append(Step("outbox", _time(found.created_us), place, what))
    topics = {topic.name: topic for topic in application.all_topics()}
    topic = topics.get(found.topic)
    record = None if topic is None else log.find(topic, effect, found.key, found.created_us)
    if record is not None:
        steps += _after(counterfoils, stores, record)
        steps += _sagas(stores, effect)
    return [*steps, *_letters(stores, effect)]


class _Left(msgspec.Struct, frozen=True):
    """An event in a service's outbox."""

    service: str
    sequence: int
    event: int
    topic: str
    key: str
    headers: str
    created_us: int


def _left(
    application: Application, stores: Stores, number: int | None, identity: str
) -> _Left | None:
    """The event of this id; else, of the events of this key, that of `app.matches` or the first."""
    counterfoils = application.counterfoils
    matched = None if counterfoils is None else counterfoils.topic.name
    found = [
        _Left(service, *row)
        for service in application.services
        for row in stores.service(
            service,
            "SELECT seq, event_id, topic, key, headers, created_us FROM outbox "  # noqa: S608
            f"WHERE event_id = ? OR {stores.idempotency_key} = ? ORDER BY seq LIMIT {EVENTS}",
            -1 if number is None else number,
            identity,
        )
    ]
    found.sort(key=lambda each: (each.event != number, each.topic != matched))
    return found[0] if found else None


def _sagas(stores: Stores, effect: int) -> list[Step]:
    """The sagas that the event has started: an instance has the id of its event."""
    if not stores.pipelines(stores.saga_tables):
        return []
    rows = stores.pipelines(
        "SELECT saga, status, step, error, started_us, ended_us FROM saga_instances "
        "WHERE id = ? ORDER BY started_us",
        effect,
    )
    return [
        Step(
            "saga",
            _time(started_us if ended_us is None else ended_us),
            f"saga {saga}, `counterfoil events saga {effect}`",
            f"{status} at {step}" + (f": {error.splitlines()[0]}" if error else ""),
        )
        for saga, status, step, error, started_us, ended_us in rows
    ]


def _letters(stores: Stores, effect: int) -> list[Step]:
    """The event's dead letters, and what became of them."""
    rows = stores.pipelines(
        "SELECT id, pipeline, error, failed_us, replayed_us, discarded_us FROM dead_letters "
        "WHERE event_id = ? ORDER BY id LIMIT ?",
        effect,
        LETTERS_SHOWN,
    )
    return [
        Step(
            "dead letter",
            _time(failed_us),
            f"dead letter {number} of {pipeline}",
            f"{_state(replayed_us, discarded_us)}: {error}",
            str(number),
        )
        for number, pipeline, error, failed_us, replayed_us, discarded_us in rows
    ]


def _state(replayed_us: int | None, discarded_us: int | None) -> str:
    if replayed_us is not None:
        return f"replayed {_time(replayed_us)}"
    return "waits for a decision" if discarded_us is None else f"discarded {_time(discarded_us)}"


def _requests(state: StateFolder, effect: int | None, identity: str) -> list[Step]:
    """The gateway's log lines: usually one, more if the client repeated the request."""
    if not state.access_log.exists():
        return []
    wanted = (str(effect).encode(), identity.encode())
    steps: list[Step] = []
    with state.access_log.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n") or not any(each in line for each in wanted):
                continue
            stub = msgspec.json.decode(line)
            if stub["effect"] != str(effect) and stub["idempotency_key"] != identity:
                continue
            if stub["instance"]:
                by = f"{stub['instance']}, attempts: {stub['attempts']}"
            else:
                by = "the gateway itself"
            steps.append(
                Step(
                    "request",
                    _time(stub["time_us"]),
                    f"gateway, request {stub['request_id']}",
                    f"{stub['method']} {stub['path']} answered {stub['status']} by {by}, "
                    f"{stub['duration_us'] / 1000:.1f} ms",
                )
            )
    return steps


def _after(counterfoils: Counterfoils | None, stores: Stores, record: Record) -> list[Step]:
    effect, state = record.event_id, stores.state
    steps: list[Step] = []
    steps.append(
        Step(
            "log",
            _time(record.timestamp_us),
            f"topic {record.topic}",
            f"partition {record.partition}, offset {record.offset}",
        )
    )
    for debit, credit, amount, currency, posted_us in stores.pipelines(
        "SELECT debit, credit, amount, currency, posted_us FROM ledger_transfers WHERE id = ?",
        effect,
    ):
        text = f"debit {debit}, credit {credit}: {amount} {currency} (minor units)"
        steps.append(Step("ledger", _time(posted_us), f"transfer {effect}", text))
    if counterfoils is None:
        return steps
    found = Lake(state.lake).find(counterfoils.stored, counterfoils.id, effect)
    if found is None:
        return steps
    steps.append(Step("lake", _time(found.committed_us), found.file, f"version {found.version}"))
    event = counterfoils.topic.decode(record.value)
    day = str(getattr(event, counterfoils.stored.day))
    line = report_days(counterfoils, state).get(day)
    if line is not None and _version(counterfoils, state) >= found.version:
        path = state.reports / counterfoils.report.name / f"{counterfoils.section}.csv"
        steps.append(
            Step(
                "report",
                _time(path.stat().st_mtime_ns // 1000),
                f"{path.parent.name}/{path.name}, line {day}",
                f"{line.count} worth {line.amount} (minor units) on this day",
            )
        )
    return steps


def _version(counterfoils: Counterfoils, state: StateFolder) -> int:
    """The version of the table that the published report was computed from."""
    return published(counterfoils.report, state.reports / counterfoils.report.name)["version"]


def _time(microseconds: int) -> str:
    return datetime.fromtimestamp(microseconds / 1_000_000, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
