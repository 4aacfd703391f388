"""Where did my payment go: one id followed from the request to its line in the report.

A payment that goes no further has often been given up: its dead letters are told of as well.
"""

import json
from datetime import UTC, datetime

import msgspec

from counterfoil.application import Application, Counterfoils, StateFolder
from counterfoil.events import EventLog, Record
from counterfoil.proof.reconcile import report_days
from counterfoil.proof.stores import Stores
from counterfoil.reports import Lake, published

ID_DIGITS = 19
"""Of the largest id: a longer number can only be an Idempotency-Key."""


LETTERS_SHOWN = 20
"""One event has one for each pipeline that gives it up, and one more for each replay that fails."""


class Step(msgspec.Struct, frozen=True):
    """One station: what it is called, when it was passed (UTC), where it stands, what it says."""

    name: str
    time: str
    where: str
    what: str
    letter: str | None = None
    """Of a dead letter: its number."""


def trace(application: Application, stores: Stores, log: EventLog, identity: str) -> list[Step]:
    """The stations that the effect `identity` (its id, or its Idempotency-Key) has passed.

    An empty list means that nothing is known of it; a list that ends early, that it is under way,
    or stands in the dead letters that come last. What an application without `app.matches` does
    with an effect is known to nobody else: of it there are the gateway's answers alone.
    """
    counterfoils = application.counterfoils
    number = int(identity) if identity.isdigit() and len(identity) <= ID_DIGITS else None
    if counterfoils is None:
        return _requests(stores.state, number, identity)
    found = stores.service(
        counterfoils.service,
        "SELECT seq, event_id, key, headers, created_us FROM outbox "  # noqa: S608
        f"WHERE event_id = ? OR {stores.idempotency_key} = ?",
        -1 if number is None else number,
        identity,
    )
    if not found:
        return _requests(stores.state, None, identity)
    sequence, effect, key, headers, created_us = found[0]
    tenant = json.loads(headers).get("tenant", "")
    place = stores.described(counterfoils.service)
    steps = [
        *_requests(stores.state, effect, identity),
        Step(
            "row",
            _time(created_us),
            f"{place}, {counterfoils.rows}",
            f"id {effect}, tenant {tenant}",
        ),
        Step("outbox", _time(created_us), place, f"position {sequence}"),
    ]
    record = log.find(counterfoils.topic, effect, key, created_us)
    if record is not None:
        steps += _after(counterfoils, stores, record)
    return [*steps, *_letters(stores, effect)]


def _letters(stores: Stores, effect: int) -> list[Step]:
    """Where it was given up, and what became of that."""
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
    """The gateway's lines: usually one, more if the client asked again."""
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
            steps.append(
                Step(
                    "request",
                    _time(stub["time_us"]),
                    f"gateway, request {stub['request_id']}",
                    f"{stub['method']} {stub['path']} answered {stub['status']} by "
                    f"{stub['instance']} after {stub['attempts']} attempts, "
                    f"{stub['duration_us'] / 1000:.1f} ms",
                )
            )
    return steps


def _after(counterfoils: Counterfoils, stores: Stores, record: Record) -> list[Step]:
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
