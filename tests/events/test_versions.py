"""Versioned rows: whatever comes twice, late or in another order, the rows are the same."""

from collections import Counter
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from counterfoil.events import (
    Context,
    EmbeddedEvents,
    Events,
    EventsError,
    Message,
    Pipeline,
    PipelineRunner,
    Topic,
    VersionedRows,
)
from counterfoil.events.sqlite import SqliteDatabase
from counterfoil.events.versions import GAPS_LIMIT, SCHEMA
from events.test_exactly_once import append, handle


class Price(msgspec.Struct, frozen=True):
    article: str
    version: int
    cents: int


PRICES = Topic("prices", Price, partitions=1)
rows = VersionedRows("prices", Price)


@settings(deadline=None)
@given(
    versions=st.dictionaries(st.sampled_from("abc"), st.integers(1, 12), min_size=1),
    chance=st.data(),
)
def test_any_order_of_versions_with_repetitions_leads_to_the_same_rows(
    versions: dict[str, int], chance: st.DataObject
) -> None:
    changes = [(key, number) for key, last in versions.items() for number in range(1, last + 1)]
    again = chance.draw(st.lists(st.sampled_from(changes), max_size=10))
    order = chance.draw(st.permutations([*changes, *again]))
    database = SqliteDatabase(Path(":memory:"))
    database.create([SCHEMA])
    applied, newest = 0, Counter[str]()
    for key, number in order:
        done = rows.upsert(database, key, number, Price(key, number, number * 10))
        applied += done.applied
        newest[key] = max(newest[key], number)
        assert done.version == newest[key]
    for key, last in versions.items():
        assert rows.get(database, key) == (last, Price(key, last, last * 10))
    counts = rows.counts(database)
    assert counts.gaps == {}
    assert counts.rows == len(versions)
    assert counts.repeated == len(again)
    assert applied + counts.outdated + counts.repeated == len(order)
    database.close()


def test_gaps_are_told_until_they_close(events: Events) -> None:
    store = events.pipelines()
    database = store.database

    def put(version: int) -> tuple[bool, int, int]:
        return msgspec.structs.astuple(rows.upsert(database, "a", version, Price("a", version, 1)))

    assert put(2) == (True, 2, 1)
    assert put(5) == (True, 5, 3)
    assert rows.counts(database).gaps == {"a": [1, 3, 4]}
    assert put(3) == (False, 5, 2), "late, and dropped"
    assert put(3) == (False, 5, 2), "a repetition now"
    assert (put(1), put(4)) == ((False, 5, 1), (False, 5, 0))
    counts = rows.counts(database)
    assert (counts.rows, counts.repeated, counts.outdated, counts.gaps) == (1, 1, 3, {})
    assert rows.get(database, "a") == (5, Price("a", 5, 1))
    assert rows.get(database, "b") is None
    store.close()


def test_a_row_remembers_so_many_gaps_and_no_more(embedded: EmbeddedEvents) -> None:
    store = embedded.pipelines()
    far = rows.upsert(store.database, "a", 1_000_000_000, Price("a", 1, 1))
    assert far.missing == GAPS_LIMIT
    farther = rows.upsert(store.database, "a", 2_000_000_000, Price("a", 2, 1))
    assert farther.missing == GAPS_LIMIT
    with pytest.raises(EventsError, match="begin with 1"):
        rows.upsert(store.database, "a", 0, Price("a", 0, 1))
    store.close()


def test_a_pipeline_keeps_rows_with_its_commit(events: Events) -> None:
    def keep(event: Price, context: Context) -> None:
        rows.upsert(context, event.article, event.version, event)
        if event.cents == 666:
            raise RuntimeError("undone")

    log = events.log()
    log.declare([PRICES])
    prices = [Price("a", 1, 5), Price("a", 3, 7), Price("a", 2, 6), Price("a", 3, 7)]
    prices.append(Price("a", 4, 666))
    append(
        log,
        [
            Message(number, "prices", "a", PRICES.encode(price), {}, 1)
            for number, price in enumerate(prices, start=1)
        ],
    )
    runner = PipelineRunner(log, events.pipelines(), Pipeline("prices", PRICES, keep), lambda: 1)
    handle(runner, len(prices))
    runner.close()
    database = events.pipelines().database
    assert rows.get(database, "a") == (3, Price("a", 3, 7))
    counts = rows.counts(database)
    assert (counts.repeated, counts.outdated, counts.gaps) == (1, 1, {})
