"""Where did my payment go: one id followed from the request to its line in the report."""

import json
from datetime import UTC, datetime

import msgspec

from counterfoil.application import Application, Counterfoils, StateFolder
from counterfoil.events import EmbeddedLog
from counterfoil.proof.reconcile import read_only, report_days
from counterfoil.reports import Lake, published


class Step(msgspec.Struct, frozen=True):
    """One station: what it is called, when it was passed (UTC), where it stands, what it says."""

    name: str
    time: str
    where: str
    what: str


def trace(application: Application, state: StateFolder, identity: str) -> list[Step]:
    """The stations that the effect `identity` (its id, or its Idempotency-Key) has passed.

    An empty list means that nothing is known of it; a list that ends early, that it is under way.
    """
    counterfoils = application.counterfoils
    if counterfoils is None:
        return []
    effect, outbox = _outbox(counterfoils, state, identity)
    steps = _requests(state, effect, identity)
    if effect is None:
        return steps
    return [*steps, *outbox, *_after(application, counterfoils, state, effect)]


def _outbox(
    counterfoils: Counterfoils, state: StateFolder, identity: str
) -> tuple[int | None, list[Step]]:
    path = state.service(counterfoils.service)
    if not path.exists():
        return None, []
    connection = read_only(path)
    try:
        row = connection.execute(
            "SELECT seq, event_id, headers, created_us FROM outbox WHERE event_id = ? "
            "OR json_extract(headers, '$.\"idempotency-key\"') = ?",
            (int(identity) if identity.isdigit() and len(identity) < 19 + 1 else -1, identity),
        ).fetchone()
    finally:
        connection.close()
    if row is None:
        return None, []
    sequence, effect, headers, created_us = row
    tenant = json.loads(headers).get("tenant", "")
    return effect, [
        Step(
            "row",
            _time(created_us),
            f"{path.name}, {counterfoils.rows}",
            f"id {effect}, tenant {tenant}",
        ),
        Step("outbox", _time(created_us), path.name, f"position {sequence}"),
    ]


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


def _after(
    application: Application, counterfoils: Counterfoils, state: StateFolder, effect: int
) -> list[Step]:
    steps: list[Step] = []
    if not state.log.exists():
        return steps
    log = EmbeddedLog(state.log)
    record = log.find_event(effect)
    log.close()
    if record is None:
        return steps
    steps.append(
        Step(
            "log",
            _time(record.timestamp_us),
            f"topic {record.topic}",
            f"partition {record.partition}, offset {record.offset}",
        )
    )
    connection = read_only(state.log)
    try:
        for debit, credit, amount, currency, posted_us in connection.execute(
            "SELECT debit, credit, amount, currency, posted_us FROM ledger_transfers WHERE id = ?",
            (effect,),
        ):
            text = f"debit {debit}, credit {credit}: {amount} {currency} (minor units)"
            steps.append(Step("ledger", _time(posted_us), f"transfer {effect}", text))
    finally:
        connection.close()
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
