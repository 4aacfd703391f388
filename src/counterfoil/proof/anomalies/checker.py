"""Searches a history for anomalies: Adya's G0, G1a and G1c, and those specific to logs.

A transaction *depends* on another if it read one of its values (`wr`), or wrote the value right
after one of its values in a partition (`ww`), by the order of offsets. If dependencies form a
cycle, no order of the transactions explains the history (Adya, Liskov and O'Neil, "Generalized
Isolation Level Definitions", 2000; Kingsbury and Alvaro, "Elle", 2020).

**What Kafka does not guarantee.** Its transactions are atomic, but their writes are not isolated
from one another: two transactions may have one order in one partition, and the other order in
another. So a cycle that contains `ww` is counted but allowed, while one of `wr` alone, a circular
information flow, is a violation, as is every other anomaly.
"""

import bisect
import graphlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from types import MappingProxyType
from typing import Final

import msgspec

from counterfoil.proof.anomalies.history import History, Place, Poll, Send, Transaction

KINDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "G0": "transactions that wrote around each other in a circle",
        "G1a": "a value of an aborted transaction was read",
        "G1c": "information flowed in a circle between transactions",
        "duplicate": "a value that was sent once stands at two offsets",
        "inconsistent-offset": "one offset held two values",
        "lost-write": "a committed value is nowhere to be read",
        "nonmonotonic-poll": "a client's poll went back by itself",
        "nonmonotonic-send": "a client's later send stands before its earlier one",
        "poll-skip": "a client's poll went past a committed value",
        "torn-transaction": "a part of a transaction is there, and the rest is not",
        "unsent": "a value was read that nobody sent",
    }
)
SHOWN: Final = 100
"""Anomalies kept of each kind; further ones are only counted."""
CYCLES: Final = 10
"""Cycles searched for in one graph: one is enough for a verdict."""


class Anomaly(msgspec.Struct, frozen=True):
    """One anomaly, and the transactions that show it (indices in the history)."""

    kind: str
    what: str
    transactions: tuple[int, ...]
    allowed: bool = False
    """Whether the log doesn't guarantee its absence."""


class Verdict(msgspec.Struct, frozen=True):
    """What was checked, and what was found."""

    transactions: dict[str, int]
    """The number of transactions by outcome."""
    values_sent: int
    values_read: int
    counts: dict[str, int]
    anomalies: tuple[Anomaly, ...]

    @property
    def holds(self) -> bool:
        """Whether enough was observed for a verdict, and nothing is a violation."""
        enough = self.transactions.get("committed", 0) > 0 and self.values_read > 0
        return enough and all(anomaly.allowed for anomaly in self.anomalies)


Value = tuple[int, int]
"""(partition, value)."""


def check(history: History) -> Verdict:
    """All anomalies of a history.

    Raises:
        ValueError: a value was sent twice, so its writer is ambiguous.
    """
    facts = _Facts(history)
    found = [
        anomaly
        for search in (
            _offsets,
            _aborted_and_unsent,
            _lost_and_torn,
            _orders_of_clients,
            _cycles,
        )
        for anomaly in search(facts)
    ]
    counts: dict[str, int] = defaultdict(int)
    kept: list[Anomaly] = []
    for anomaly in found:
        counts[anomaly.kind] += 1
        if counts[anomaly.kind] <= SHOWN:
            kept.append(anomaly)
    outcomes: dict[str, int] = defaultdict(int)
    for transaction in history.transactions:
        outcomes[transaction.outcome] += 1
    return Verdict(
        transactions=dict(outcomes),
        values_sent=len(facts.writer),
        values_read=sum(len(polled) for _, polled in facts.polls()),
        counts=dict(counts),
        anomalies=tuple(kept),
    )


class _Facts:
    """Indices of a history."""

    def __init__(self, history: History) -> None:
        self.transactions = history.transactions
        self.writer: dict[Value, int] = {}
        for number, transaction in enumerate(history.transactions):
            for send in _sends(transaction):
                value = (send.partition, send.value)
                if value in self.writer:
                    raise ValueError(f"value {send.value} was sent to {send.partition} twice")
                self.writer[value] = number
        self.final = history.final
        self.readable = {(place.partition, place.value) for place in history.final}
        self.log: dict[int, dict[int, int]] = defaultdict(dict)
        """The value at each offset of each partition, from the final read."""
        for place in history.final:
            self.log[place.partition].setdefault(place.offset, place.value)

    def polls(self) -> Iterator[tuple[int, tuple[Place, ...]]]:
        """(transaction, records) of every poll."""
        for number, transaction in enumerate(self.transactions):
            for action in transaction.actions:
                if isinstance(action, Poll):
                    yield number, action.records

    def took_effect(self, number: int) -> bool:
        """Whether a transaction was committed, by its outcome or because its values are there."""
        transaction = self.transactions[number]
        if transaction.outcome == "unknown":
            return any(
                (send.partition, send.value) in self.readable for send in _sends(transaction)
            )
        return transaction.outcome == "committed"


def _sends(transaction: Transaction) -> list[Send]:
    return [action for action in transaction.actions if isinstance(action, Send)]


def _offsets(facts: _Facts) -> Iterator[Anomaly]:
    """Checks that an offset always has the same value, and a value one offset."""
    value_at: dict[tuple[int, int], tuple[int, int | None]] = {}
    offset_of: dict[Value, tuple[int, int | None]] = {}
    seen = [(None, place) for place in facts.final]
    seen += [(number, place) for number, polled in facts.polls() for place in polled]
    for number, place in seen:
        at, value = (place.partition, place.offset), (place.partition, place.value)
        other, by = value_at.setdefault(at, (place.value, number))
        if other != place.value:
            what = f"{place.partition}/{place.offset} held {other} and {place.value}"
            yield Anomaly("inconsistent-offset", what, _known(by, number))
        offset, by = offset_of.setdefault(value, (place.offset, number))
        if offset != place.offset:
            what = f"{place.value} stands at {place.partition}/{offset} and /{place.offset}"
            yield Anomaly("duplicate", what, _known(facts.writer.get(value), by, number))


def _known(*numbers: int | None) -> tuple[int, ...]:
    return tuple(dict.fromkeys(number for number in numbers if number is not None))


def _aborted_and_unsent(facts: _Facts) -> Iterator[Anomaly]:
    seen: Iterable[tuple[int | None, tuple[Place, ...]]] = [*facts.polls(), (None, facts.final)]
    for reader, polled in seen:
        for place in polled:
            writer = facts.writer.get((place.partition, place.value))
            where = f"{place.value} at {place.partition}/{place.offset}"
            if writer is None:
                yield Anomaly("unsent", f"nobody sent {where}", _known(reader))
            elif facts.transactions[writer].outcome == "aborted" and reader != writer:
                what = f"{where} was aborted, and read"
                yield Anomaly("G1a", what, _known(writer, reader))


def _lost_and_torn(facts: _Facts) -> Iterator[Anomaly]:
    for number, transaction in enumerate(facts.transactions):
        sends = _sends(transaction)
        missing = [send for send in sends if (send.partition, send.value) not in facts.readable]
        if transaction.outcome == "committed":
            for send in missing:
                what = f"{send.value} was committed to partition {send.partition}, and is not there"
                yield Anomaly("lost-write", what, (number,))
        elif transaction.outcome == "unknown" and 0 < len(missing) < len(sends):
            lost = ", ".join(str(send.value) for send in missing)
            yield Anomaly("torn-transaction", f"{lost} of {len(sends)} values missing", (number,))


def _orders_of_clients(facts: _Facts) -> Iterator[Anomaly]:
    """Checks that a client's polls continue where the last one ended, and its sends keep order.

    A client's first poll must start at the beginning, and the first one after a reposition at the
    end of the client's last committed transaction: neither may skip anything.
    """
    committed = {partition: sorted(values) for partition, values in facts.log.items()}
    polled: dict[tuple[int, int], tuple[int, int | None]] = {}
    taken: dict[int, dict[tuple[int, int], tuple[int, int | None]]] = defaultdict(dict)
    """The positions of each client's last committed transaction."""
    sent: dict[tuple[int, int], tuple[int, int]] = {}
    for number, transaction in enumerate(facts.transactions):
        client = transaction.client
        if transaction.placed:
            polled = {place: at for place, at in polled.items() if place[0] != client}
            polled |= taken[client]
        for action in transaction.actions:
            if isinstance(action, Send):
                yield from _sent_in_order(sent, transaction.client, number, action)
                continue
            for record in action.records:
                place = (client, record.partition)
                before, earlier = polled.get(place, (-1, None))
                polled[place] = (record.offset, number)
                involved = _known(earlier, number)
                after = "as the first" if before < 0 else f"after {before}"
                where = f"client {client}, {record.partition}/{record.offset} {after}"
                if record.offset <= before:
                    yield Anomaly("nonmonotonic-poll", where, involved)
                skipped = _between(committed.get(record.partition, []), before, record.offset)
                if skipped:
                    what = f"{where}: past {skipped[0]}, {len(skipped)} in all"
                    yield Anomaly("poll-skip", what, involved)
        if transaction.outcome == "committed":
            taken[client] = {place: at for place, at in polled.items() if place[0] == client}


def _sent_in_order(
    sent: dict[tuple[int, int], tuple[int, int]], client: int, number: int, send: Send
) -> Iterator[Anomaly]:
    if send.offset is None:
        return
    place = (client, send.partition)
    before, earlier = sent.get(place, (-1, number))
    sent[place] = (send.offset, number)
    if send.offset <= before:
        what = f"client {client}, {send.partition}/{send.offset} after {before}"
        yield Anomaly("nonmonotonic-send", what, _known(earlier, number))


def _between(offsets: list[int], low: int, high: int) -> list[int]:
    """The elements of the sorted `offsets` strictly between the two."""
    return offsets[bisect.bisect_right(offsets, low) : bisect.bisect_left(offsets, high)]


Graph = dict[int, set[int]]
"""The dependencies of each transaction."""


def _cycles(facts: _Facts) -> Iterator[Anomaly]:
    ww, wr = _write_dependencies(facts), _read_dependencies(facts)
    for cycle in _cycles_of(wr):
        yield Anomaly("G1c", f"each read the one before: {_circle(cycle)}", cycle)
    for cycle in _cycles_of(ww):
        what = f"each wrote after the one before: {_circle(cycle)}"
        yield Anomaly("G0", what, cycle, allowed=True)
    both: Graph = defaultdict(set)
    for graph in (ww, wr):
        for number, earlier in graph.items():
            both[number] |= earlier
    for cycle in _cycles_of(both):
        steps = list(zip(cycle, [*cycle[1:], cycle[0]], strict=True))
        kinds = {"wr" if before in wr.get(after, ()) else "ww" for before, after in steps}
        if kinds == {"wr", "ww"}:
            what = f"each read, or wrote after, the one before: {_circle(cycle)}"
            yield Anomaly("G1c", what, cycle, allowed=True)


def _write_dependencies(facts: _Facts) -> Graph:
    graph: Graph = defaultdict(set)
    for partition, values in facts.log.items():
        in_order = (facts.writer.get((partition, values[offset])) for offset in sorted(values))
        for before, after in pairwise(number for number in in_order if number is not None):
            if before != after:
                graph[after].add(before)
    return graph


def _read_dependencies(facts: _Facts) -> Graph:
    graph: Graph = defaultdict(set)
    for reader, polled in facts.polls():
        if facts.took_effect(reader):
            for place in polled:
                writer = facts.writer.get((place.partition, place.value))
                if writer is not None and writer != reader:
                    graph[reader].add(writer)
    return graph


def _cycles_of(graph: Graph) -> Iterator[tuple[int, ...]]:
    """Some cycles, in the order of dependency; each cycle found is then cut at one edge."""
    graph = {number: set(earlier) for number, earlier in graph.items()}
    for _ in range(CYCLES):
        try:
            graphlib.TopologicalSorter(graph).prepare()
        except graphlib.CycleError as error:
            *cycle, _last = error.args[
                1
            ]  # each is the one before of the next; the first is last again
            yield tuple(cycle)
            graph[cycle[1 % len(cycle)]].discard(cycle[0])
        else:
            return


def _circle(cycle: tuple[int, ...]) -> str:
    return " -> ".join(str(number) for number in (*cycle, cycle[0]))
