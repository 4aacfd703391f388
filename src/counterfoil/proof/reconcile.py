"""Reconciles client, gateway log, service table, event log, ledger, lake and report.

Every store is read by its plain client (`stores`), without the code that wrote it, so that a bug in
that code can't hide here.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from counterfoil.application import Counterfoils, StateFolder
from counterfoil.proof.client import DONE, Acknowledged, ClientRecord
from counterfoil.proof.stores import Stores
from counterfoil.reports.delta import open_table

DIFFERENCES_SHOWN: Final = 100


class Sum(msgspec.Struct, frozen=True):
    """A number of effects and the sum of their amounts, in minor units."""

    count: int
    amount: int


class Difference(msgspec.Struct, frozen=True):
    """One mismatch: its kind, its place, and both values."""

    what: str
    where: str
    id: str
    expected: str
    found: str


class Reconciliation(msgspec.Struct, frozen=True):
    """The sums at every stage, the first differences, and the number of all differences."""

    sums: dict[str, Sum]
    differences: list[Difference]
    difference_count: int


class _Differences:
    def __init__(self) -> None:
        self.shown: list[Difference] = []
        self.count = 0

    def add(self, what: str, where: str, id_: object, expected: object, found: object) -> None:
        self.count += 1
        if len(self.shown) < DIFFERENCES_SHOWN:
            self.shown.append(Difference(what, where, str(id_), str(expected), str(found)))

    def compare(
        self, where: str, expected: Mapping[int, int], found: Iterable[tuple[int, int]]
    ) -> Sum:
        """Compare (id, amount) pairs with the expected ones, each of which must occur once."""
        pairs = list(found)
        times = Counter(identity for identity, _ in pairs)
        amounts = dict(pairs)
        for identity, number in times.items():
            if number > 1:
                self.add("doubled", where, identity, 1, number)
            if identity not in expected:
                self.add("appeared", where, identity, "nothing", amounts[identity])
            elif amounts[identity] != expected[identity]:
                self.add("changed", where, identity, expected[identity], amounts[identity])
        for identity in expected.keys() - times.keys():
            self.add("lost", where, identity, expected[identity], "nothing")
        return Sum(len(pairs), sum(amount for _, amount in pairs))


def reconcile(counterfoils: Counterfoils, stores: Stores, client: ClientRecord) -> Reconciliation:
    """Compare every stage with the service's table, and the table with the client's record."""
    differences = _Differences()
    rows, keys = service_rows(counterfoils, stores)
    amounts = dict(rows)
    promised = client.acknowledged
    _compare_client(client, amounts, keys, differences)
    _compare_rows(rows, keys, differences)
    gateway = _compare_gateway(stores.state.access_log, promised.values(), amounts, differences)
    documents = log_documents(counterfoils, stores)
    logged = differences.compare("event log", amounts, _worths(counterfoils, documents))
    _compare_order(counterfoils, stores, [event_id for event_id, _ in documents], differences)
    sums = {
        "acknowledged": Sum(len(promised), sum(each.amount for each in promised.values())),
        "accepted": Sum(len(rows), sum(amount for _, amount in rows)),
        "gateway": gateway,
        "log": logged,
        "ledger": _compare_ledger(counterfoils, stores, amounts, documents, differences),
        "lake": differences.compare("lake", amounts, lake_rows(counterfoils, stores.state)),
        "report": _compare_report(counterfoils, stores, differences),
    }
    return Reconciliation(sums, differences.shown, differences.count)


def _compare_client(
    client: ClientRecord,
    amounts: Mapping[int, int],
    keys: Mapping[tuple[str, str], set[int]],
    differences: _Differences,
) -> None:
    """Check that each acknowledged effect has its row, caused by its own key."""
    for asked, stub in client.acknowledged.items():
        if stub.id not in amounts:
            differences.add("lost", "service", stub.id, stub.amount, "nothing")
        elif stub.id not in keys.get(asked, ()):
            differences.add("lost", "service", stub.key, "an effect of its own", "another key's")
        elif amounts[stub.id] != stub.amount:
            differences.add("changed", "service", stub.id, stub.amount, amounts[stub.id])
    for key in client.changed_answers:
        differences.add("changed answer", "client", key, "the same id for a key", "another id")


def _compare_rows(
    rows: Iterable[tuple[int, int]],
    keys: Mapping[tuple[str, str], set[int]],
    differences: _Differences,
) -> None:
    """Check that no id has two rows and no key two effects; a key without one was given up."""
    for identity, number in Counter(identity for identity, _ in rows).items():
        if number > 1:
            differences.add("doubled", "service", identity, "1 row", number)
    for (_, key), ids in keys.items():
        if len(ids) > 1:
            differences.add("doubled", "service", key, "1 effect for a key", len(ids))


def _compare_gateway(
    access_log: Path,
    promised: Iterable[Acknowledged],
    amounts: Mapping[int, int],
    differences: _Differences,
) -> Sum:
    """Check that the gateway logged each acknowledged effect, and none that has no row."""
    logged = gateway_effects(access_log)
    for stub in promised:
        if stub.id not in logged:
            differences.add(
                "lost", "gateway log", stub.id, stub.key, "no line with a status of 2xx"
            )
    for identity in logged - amounts.keys():
        differences.add("lost", "service", identity, "a row, for the gateway's 2xx", "nothing")
    return Sum(len(logged), sum(amounts.get(identity, 0) for identity in logged))


def _compare_order(
    counterfoils: Counterfoils, stores: Stores, logged: Iterable[int], differences: _Differences
) -> None:
    """Check that the log has the events of each key in the order of their commits.

    Duplicate and lost events are reported elsewhere.
    """
    if not stores.commits_in_order:
        return
    places: dict[int, int] = {}
    for place, event_id in enumerate(logged):
        places.setdefault(event_id, place)
    newest: dict[str, tuple[int, int]] = {}
    committed = stores.service(
        counterfoils.service,
        "SELECT key, event_id FROM outbox WHERE topic = ? ORDER BY seq",
        counterfoils.topic.name,
    )
    for key, event_id in committed:
        if event_id not in places:
            continue
        place = places[event_id]
        before, other = newest.get(key, (-1, 0))
        if place < before:
            differences.add("out of order", "event log", event_id, f"after {other}", "before it")
        else:
            newest[key] = (place, event_id)


def _compare_ledger(
    counterfoils: Counterfoils,
    stores: Stores,
    amounts: Mapping[int, int],
    documents: Iterable[tuple[int, dict[str, Any]]],
    differences: _Differences,
) -> Sum:
    """Check that each event was posted between the right accounts, and that balances add up."""
    transfers = stores.pipelines(
        "SELECT id, debit, credit, amount, currency, code FROM ledger_transfers"
    )
    posted = [
        (identity, amount)
        for identity, _, _, amount, _, code in transfers
        if code == counterfoils.posted
    ]
    total = differences.compare("ledger", amounts, posted)
    accounts = counterfoils.accounts
    expected = {} if accounts is None else {id_: accounts(event) for id_, event in documents}
    rebuilt: dict[tuple[str, str], list[int]] = {}
    for identity, debit, credit, amount, currency, code in transfers:
        rebuilt.setdefault((debit, currency), [0, 0])[0] += amount
        rebuilt.setdefault((credit, currency), [0, 0])[1] += amount
        if code != counterfoils.posted:
            continue
        if currency != counterfoils.currency:
            differences.add("changed", "ledger", identity, counterfoils.currency, currency)
        if identity in expected and (debit, credit) != tuple(expected[identity]):
            way = " to ".join(expected[identity])
            differences.add("changed", "ledger", identity, way, f"{debit} to {credit}")
    kept = {
        (name, currency): [debits, credits]
        for name, currency, debits, credits in stores.pipelines(
            "SELECT name, currency, debits, credits FROM ledger_accounts"
        )
    }
    for account in sorted(rebuilt.keys() | kept.keys()):
        both, found = rebuilt.get(account, [0, 0]), kept.get(account, [0, 0])
        if both != found:
            said = [f"debits {debits}, credits {credits}" for debits, credits in (both, found)]
            differences.add("different balance", "ledger", " ".join(account), *said)
    return total


def _compare_report(counterfoils: Counterfoils, stores: Stores, differences: _Differences) -> Sum:
    expected = service_days(counterfoils, stores)
    found = report_days(counterfoils, stores.state)
    for day in sorted(expected.keys() | found.keys()):
        if expected.get(day) != found.get(day):
            differences.add(
                "different day",
                f"report {counterfoils.report.name}",
                day,
                _said(expected.get(day)),
                _said(found.get(day)),
            )
    return Sum(sum(day.count for day in found.values()), sum(day.amount for day in found.values()))


def _said(day: Sum | None) -> str:
    return "nothing" if day is None else f"{day.count} worth {day.amount}"


def service_rows(
    counterfoils: Counterfoils, stores: Stores
) -> tuple[list[tuple[int, int]], dict[tuple[str, str], set[int]]]:
    """The service's rows as (id, amount), and the ids that each key caused.

    A key is (tenant, Idempotency-Key). What it caused is known from the outbox, whose events have
    the key in their headers. A command may publish any number of events, to any topics; only those
    whose ids are rows are effects.
    """
    service, columns = counterfoils.service, f"{counterfoils.id}, {counterfoils.amount}"
    rows = [
        (int(identity), amount)
        for identity, amount in stores.service(
            service,
            f"SELECT {columns} FROM {counterfoils.rows}",  # noqa: S608
        )
    ]
    effects = {identity for identity, _ in rows}
    keys: dict[tuple[str, str], set[int]] = {}
    for identity, text in stores.service(service, "SELECT event_id, headers FROM outbox"):
        headers = msgspec.json.decode(text)
        if identity in effects:
            key = (headers.get("tenant", ""), headers.get("idempotency-key", ""))
            keys.setdefault(key, set()).add(identity)
    return rows, keys


def service_days(counterfoils: Counterfoils, stores: Stores) -> dict[str, Sum]:
    """Count and sum of the service's rows by day."""
    return {
        day: Sum(count, int(amount))
        for day, count, amount in stores.service(
            counterfoils.service,
            f"SELECT {counterfoils.stored.day}, count(*), sum({counterfoils.amount}) "  # noqa: S608
            f"FROM {counterfoils.rows} GROUP BY 1",
        )
    }


def gateway_effects(path: Path) -> set[int]:
    """The effects that the gateway's log acknowledges; an incomplete last line is ignored."""
    effects: set[int] = set()
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            stub: dict[str, Any] = msgspec.json.decode(line)
            if stub["status"] in DONE and stub["effect"]:
                effects.add(int(stub["effect"]))
    return effects


def log_events(counterfoils: Counterfoils, stores: Stores) -> list[tuple[int, int]]:
    """The topic's events as (id, amount); the amount is 0 for what can't be decoded."""
    return _worths(counterfoils, log_documents(counterfoils, stores))


def log_documents(counterfoils: Counterfoils, stores: Stores) -> list[tuple[int, dict[str, Any]]]:
    """The topic's events as (id, JSON document); the document is empty if it can't be decoded."""
    return [
        (event_id, _document(value)) for event_id, value in stores.events(counterfoils.topic.name)
    ]


def _document(value: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(value, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}


def _worths(
    counterfoils: Counterfoils, documents: Iterable[tuple[int, dict[str, Any]]]
) -> list[tuple[int, int]]:
    found = [(event_id, event.get(counterfoils.amount)) for event_id, event in documents]
    return [(event_id, worth if isinstance(worth, int) else 0) for event_id, worth in found]


def ledger_transfers(counterfoils: Counterfoils, stores: Stores) -> list[tuple[int, int]]:
    """The ledger's transfers as (id, amount)."""
    return [
        (identity, amount)
        for identity, amount in stores.pipelines(
            "SELECT id, amount FROM ledger_transfers WHERE code = ?", counterfoils.posted
        )
    ]


def lake_rows(counterfoils: Counterfoils, state: StateFolder) -> list[tuple[int, int]]:
    """The rows of the table's newest version as (id, amount)."""
    import deltalake  # noqa: PLC0415 - heavy, and only proofs read it
    import pyarrow  # noqa: PLC0415

    path = state.lake / counterfoils.stored.name
    if not (path / "_delta_log").exists():
        return []
    table = pyarrow.table(
        deltalake.QueryBuilder()
        .register("rows", open_table(path))
        .execute(f"SELECT {counterfoils.id}, {counterfoils.amount} FROM rows")  # noqa: S608
    )
    columns: list[list[Any]] = [column.to_pylist() for column in table.columns]
    return [(int(identity), amount) for identity, amount in zip(*columns, strict=True)]


def report_days(counterfoils: Counterfoils, state: StateFolder) -> dict[str, Sum]:
    """The published section, read from its CSV file, as its readers get it."""
    import csv  # noqa: PLC0415

    path = state.reports / counterfoils.report.name / f"{counterfoils.section}.csv"
    if not path.exists():
        return {}
    days: dict[str, Sum] = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            before = days.get(row["day"], Sum(0, 0))  # rows of a repeated day are added
            count, total = int(row[counterfoils.count]), _minor(row[counterfoils.total])
            days[row["day"]] = Sum(before.count + count, before.amount + total)
    return days


def _minor(text: str) -> int:
    """Minor units from an amount in major units (`12.34`) or from an integer; 0 if empty."""
    from decimal import Decimal  # noqa: PLC0415

    if not text:  # the sum of no rows
        return 0
    return int(Decimal(text) * 100) if "." in text else int(text)
