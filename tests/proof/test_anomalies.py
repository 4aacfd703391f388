"""The checker of transactions: every kind of anomaly is found, and none where there is none."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterfoil.engines import RunningEngine
from counterfoil.kafka_access import KafkaAccess
from counterfoil.proof.anomalies import (
    KINDS,
    History,
    Place,
    Poll,
    Send,
    Transaction,
    check,
)
from counterfoil.proof.anomalies.kafka import SEEDED, run


def committed(client: int, *actions: Send | Poll, placed: bool = False) -> Transaction:
    return Transaction(client, "committed", actions, placed)


def poll(*places: tuple[int, int, int]) -> Poll:
    return Poll(tuple(Place(*place) for place in places))


def final(*places: tuple[int, int, int]) -> tuple[Place, ...]:
    return tuple(Place(*place) for place in places)


ONE, TWO = Send(0, 1, 0), Send(0, 2, 1)
BAD = {
    "G0": History(
        (committed(0, ONE, Send(1, 3, 1)), committed(1, TWO, Send(1, 4, 0))),
        final((0, 0, 1), (0, 1, 2), (1, 0, 4), (1, 1, 3)),
    ),
    "G1a": History(
        (Transaction(0, "aborted", (ONE,)), committed(1, poll((0, 0, 1)))),
        final(),
    ),
    "G1c": History(
        (committed(0, ONE, poll((1, 0, 9))), committed(1, Send(1, 9, 0), poll((0, 0, 1)))),
        final((0, 0, 1), (1, 0, 9)),
    ),
    "duplicate": History((committed(0, ONE),), final((0, 0, 1), (0, 5, 1))),
    "inconsistent-offset": History(
        (committed(0, ONE), committed(0, TWO), committed(1, poll((0, 0, 2)))),
        final((0, 0, 1), (0, 1, 2)),
    ),
    "lost-write": History((committed(0, ONE), committed(0, TWO)), final((0, 1, 2))),
    "nonmonotonic-poll": History(
        (committed(0, ONE, TWO), committed(1, poll((0, 1, 2)), poll((0, 0, 1)))),
        final((0, 0, 1), (0, 1, 2)),
    ),
    "nonmonotonic-send": History(
        (committed(0, Send(0, 1, 7)), committed(0, Send(0, 2, 3))), final((0, 7, 1), (0, 3, 2))
    ),
    "poll-skip": History(
        (
            committed(0, ONE, TWO, Send(0, 3, 2)),
            committed(1, poll((0, 0, 1))),
            committed(1, poll((0, 2, 3))),
        ),
        final((0, 0, 1), (0, 1, 2), (0, 2, 3)),
    ),
    "torn-transaction": History(
        (Transaction(0, "unknown", (ONE, TWO)),),
        final((0, 0, 1)),
    ),
    "unsent": History((committed(0, ONE),), final((0, 0, 1), (0, 1, 77))),
}


def test_there_is_a_bad_history_for_every_kind() -> None:
    assert set(BAD) == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_bad_history_is_found_out(kind: str) -> None:
    verdict = check(BAD[kind])
    assert kind in verdict.counts
    assert not verdict.holds


def test_writes_that_cross_are_not_held_against_the_log() -> None:
    crossed = BAD["G0"]
    read = committed(2, poll((0, 0, 1), (0, 1, 2), (1, 0, 4), (1, 1, 3)))
    verdict = check(History((*crossed.transactions, read), crossed.final))
    assert verdict.counts == {"G0": 1}
    assert verdict.holds


def test_a_circle_that_a_read_closes_over_writes_is_counted_and_allowed() -> None:
    history = History(
        (committed(0, ONE, Send(1, 3, 0)), committed(1, TWO, poll((1, 0, 3)), Send(2, 4, 0))),
        final((0, 0, 1), (0, 1, 2), (1, 0, 3), (2, 0, 4)),
    )
    assert check(history).counts == {}, "both in one order"
    crossed = History(
        (
            committed(0, Send(0, 1, 1), Send(1, 3, 0)),
            committed(1, Send(0, 2, 0), poll((1, 0, 3))),
        ),
        final((0, 0, 2), (0, 1, 1), (1, 0, 3)),
    )
    verdict = check(crossed)
    assert verdict.counts == {"G1c": 1}
    assert verdict.holds


def test_an_unknown_transaction_may_be_there_or_not() -> None:
    sent = Transaction(0, "unknown", (ONE, TWO))
    reader = committed(1, Send(1, 9, 0), poll((1, 0, 9)))
    assert check(History((sent, reader), final((1, 0, 9)))).holds
    whole = final((0, 0, 1), (0, 1, 2), (1, 0, 9))
    assert check(History((sent, reader), whole)).holds


def test_a_client_that_went_back_may_read_again() -> None:
    history = History(
        (
            committed(0, ONE, TWO),
            Transaction(1, "aborted", (poll((0, 0, 1), (0, 1, 2)),)),
            committed(1, poll((0, 0, 1), (0, 1, 2)), placed=True),
        ),
        final((0, 0, 1), (0, 1, 2)),
    )
    assert check(history).holds


@pytest.mark.parametrize("outcome", ["aborted", "unknown"])
def test_a_skip_right_after_a_placement_is_found(outcome: Literal["aborted", "unknown"]) -> None:
    sends = committed(0, ONE, TWO, Send(0, 3, 2), Send(0, 4, 3))
    log = final((0, 0, 1), (0, 1, 2), (0, 2, 3), (0, 3, 4))
    first = committed(1, poll((0, 0, 1)))
    undone = Transaction(1, outcome, (poll((0, 1, 2), (0, 2, 3)),))
    again = committed(1, poll((0, 1, 2), (0, 2, 3), (0, 3, 4)), placed=True)
    assert check(History((sends, first, undone, again), log)).holds
    on = committed(1, poll((0, 3, 4)), placed=True)
    verdict = check(History((sends, first, undone, on), log))
    assert verdict.counts == {"poll-skip": 1}
    assert "past 1, 2 in all" in verdict.anomalies[0].what
    back = committed(1, poll((0, 0, 1), (0, 1, 2)), placed=True)
    assert check(History((sends, first, undone, back), log)).counts == {"nonmonotonic-poll": 1}


def test_a_skip_at_the_very_beginning_is_found() -> None:
    history = History(
        (committed(0, ONE, TWO), committed(1, poll((0, 1, 2)))), final((0, 0, 1), (0, 1, 2))
    )
    assert check(history).counts == {"poll-skip": 1}


def test_a_history_without_reads_proves_nothing() -> None:
    assert not check(History((), ())).holds
    assert not check(History((committed(0, ONE),), final((0, 0, 1)))).holds


def test_a_value_that_the_workload_sent_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="twice"):
        check(History((committed(0, ONE), committed(1, ONE)), ()))


@st.composite
def good_histories(draw: st.DrawFn) -> History:
    """Transactions one after the other on a perfect log, each reading on from where it was."""
    log: dict[int, list[int]] = {0: [], 1: []}
    following = {(client, partition): 0 for client in range(3) for partition in log}
    transactions: list[Transaction] = []
    value = 0
    for client, sends, polls, aborted in draw(
        st.lists(
            st.tuples(
                st.integers(0, 2),
                st.lists(st.integers(0, 1), max_size=3),
                st.booleans(),
                st.booleans(),
            ),
            max_size=30,
        )
    ):
        actions: list[Send | Poll] = []
        places = dict(following)
        if polls:
            read: list[Place] = []
            for partition, values in log.items():
                start = places[client, partition]
                read += [Place(partition, n, v) for n, v in enumerate(values) if n >= start]
                places[client, partition] = len(values)
            actions.append(Poll(tuple(read)))
        for partition in sends:
            value += 1
            # An aborted value is given an offset of its own and is never seen.
            offset = None if aborted else len(log[partition])
            actions.append(Send(partition, value, offset))
            if not aborted:
                log[partition].append(value)
        outcome = "aborted" if aborted else "committed"
        before = [each for each in transactions if each.client == client]
        placed = bool(before) and before[-1].outcome == "aborted"
        transactions.append(Transaction(client, outcome, tuple(actions), placed))
        if not aborted:
            following = places
    last = tuple(Place(p, n, v) for p, values in log.items() for n, v in enumerate(values))
    return History(tuple(transactions), last)


@given(good_histories())
def test_a_perfect_log_is_never_accused(history: History) -> None:
    assert check(history).counts == {}


@given(good_histories(), st.randoms(use_true_random=False))
def test_a_value_that_vanishes_is_missed(history: History, chance: object) -> None:
    if history.final:
        gone = chance.choice(history.final)  # type: ignore[attr-defined]
        left = tuple(place for place in history.final if place != gone)
        assert "lost-write" in check(History(history.transactions, left)).counts


def test_a_history_can_be_kept(tmp_path: object) -> None:
    for history in BAD.values():
        assert msgspec.json.decode(msgspec.json.encode(history), type=History) == history


def test_a_real_broker_that_dies_shows_no_anomaly(
    engine: Callable[[str], RunningEngine],
) -> None:
    kafka = engine("kafka")
    under_way = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(
            run,
            KafkaAccess(kafka.address),
            clients=3,
            transactions=120,
            seed=1,
            progress=lambda number: under_way.set() if number == 30 else None,
        )
        assert under_way.wait(60)
        kafka.kill()
        kafka.start()
        history = running.result()
    verdict = check(history)
    assert verdict.holds, verdict.anomalies
    assert sum(verdict.transactions.values()) == 120
    assert verdict.transactions["committed"] > 30, "some of them after the broker was back"
    assert verdict.transactions["aborted"] > 0


CAUGHT = {
    "read-uncommitted": "G1a",
    "send-twice": "duplicate",
    "skip-polls": "poll-skip",
    "skip-placed": "poll-skip",
    "rewind": "nonmonotonic-poll",
    "claim-commit": "lost-write",
}


@pytest.mark.parametrize("bug", SEEDED)
def test_a_seeded_bug_is_found(bug: str, engine: Callable[[str], RunningEngine]) -> None:
    verdict = check(
        run(KafkaAccess(engine("kafka").address), clients=3, transactions=100, seed=2, bug=bug)
    )
    assert CAUGHT[bug] in verdict.counts
    assert not verdict.holds
