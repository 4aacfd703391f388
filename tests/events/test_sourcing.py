"""Aggregates: by snapshot or by full replay, the same state; two writers, one after the other."""

import re
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from counterfoil import Refusal
from counterfoil.events import (
    AGGREGATE_SCHEMA,
    Aggregate,
    Command,
    Current,
    Database,
    EmbeddedEvents,
    Events,
    EventsError,
    Reply,
    ServiceStore,
    SnapshotMismatch,
    VersionConflict,
)
from counterfoil.events.database import Cursor
from counterfoil.events.sqlite import SqliteDatabase

PAGE = Path(__file__).parents[2] / "docs" / "sourcing.md"


class Session:
    """A transaction's place, with a time of its own."""

    def __init__(self, database: Database, now_us: int = 1) -> None:
        self.now_us = now_us
        self._database = database

    def execute(self, sql: str, parameters: Sequence[object] = ()) -> Cursor:
        return self._database.execute(sql, parameters)


class Tally(msgspec.Struct, frozen=True):
    total: int = 0
    names: list[str] = []


class Added(msgspec.Struct, frozen=True):
    amount: int


class Named(msgspec.Struct, frozen=True):
    name: str


def tally(factor: int = 1, **settings: Any) -> Aggregate[Tally]:
    aggregate = Aggregate("tally", Tally, **settings)

    @aggregate.when(version=2)
    def added(state: Tally, event: Added) -> Tally:
        # Not commutative: the order of the events shows.
        return Tally(state.total * 3 % 10_007 + event.amount * factor, state.names)

    @aggregate.when()
    def named(state: Tally, event: Named) -> Tally:
        return Tally(state.total, [*state.names, event.name][-5:])

    @aggregate.upcast("Added", 1)
    def from_cents(stored: dict[str, Any]) -> dict[str, Any]:
        return {"amount": stored["cents"] // 100}

    return aggregate


def memory() -> SqliteDatabase:
    database = SqliteDatabase(Path(":memory:"))
    database.create([AGGREGATE_SCHEMA])
    return database


@pytest.fixture
def database(events: Events) -> Database:
    opened = events.service("tally")
    opened.create([AGGREGATE_SCHEMA])
    return opened


events_of_a_tally = st.one_of(
    st.builds(Added, st.integers(-1_000, 1_000)), st.builds(Named, st.text(max_size=3))
)


@settings(deadline=None)
@given(
    appends=st.lists(
        st.tuples(
            st.lists(events_of_a_tally, min_size=1, max_size=7),
            st.integers(1, 4),
            st.sampled_from([None, 0.0, 5.0]),
            st.integers(1, 2),
            st.integers(0, 9_000_000),
        ),
        max_size=12,
    ),
    as_of=st.integers(0, 60),
)
def test_snapshot_and_tail_are_the_full_replay_whenever_snapshots_are_taken(
    appends: list[tuple[list[Any], int, float | None, int, int]], as_of: int
) -> None:
    """Each append is by a program of its own settings, at a time of its own."""
    database, now_us = memory(), 0
    expected, states = Tally(), [Tally()]
    for events, every, seconds, schema, waited_us in appends:
        now_us += waited_us
        aggregate = tally(snapshot_every=every, snapshot_seconds=seconds, schema_version=schema)
        session = Session(database, now_us)
        aggregate.append(session, aggregate.load(session, "a"), events)
        for event in events:
            expected = aggregate.apply(expected, event)
            states.append(expected)
        assert aggregate.load(session, "a").state == expected
    aggregate = tally()
    current = aggregate.verify(Session(database), "a")
    assert (current.state, current.version) == (expected, len(states) - 1)
    end = min(as_of, current.version)
    assert aggregate.load(Session(database), "a", as_of=as_of).state == states[end]
    database.close()


def test_a_snapshot_is_used_and_leaves_little_to_apply(database: Database) -> None:
    aggregate, session = tally(snapshot_every=10), Session(database)
    current: Current[Tally] = aggregate.load(session, "a")
    for number in range(57):
        current = aggregate.append(session, current, [Added(number)])
    assert aggregate.load(session, "a") == current
    assert current.snapshot_version == 50
    database.execute("DELETE FROM stream_events WHERE version <= 50")
    assert aggregate.load(session, "a") == current, "what the snapshot stands for is not read"


def test_a_snapshot_comes_after_a_time_as_well(database: Database) -> None:
    aggregate = tally(snapshot_every=1_000, snapshot_seconds=60)
    found = []
    for seconds in (1, 2, 61, 62, 200):
        session = Session(database, seconds * 1_000_000)
        current = aggregate.append(session, aggregate.load(session, "a"), [Added(1)])
        found.append(current.snapshot_version)
    assert found == [0, 0, 3, 3, 5]


def test_who_comes_second_with_the_same_version_is_refused(database: Database) -> None:
    aggregate, session = tally(), Session(database)
    for number in range(2):
        seen = aggregate.load(session, "a")
        with database.transaction():
            aggregate.append(session, seen, [Added(1)])
        with pytest.raises(VersionConflict), database.transaction():
            aggregate.append(session, seen, [Added(2)])
        assert aggregate.load(session, "a").version == number + 1


def test_writers_at_once_decide_one_after_the_other(events: Events, database: Database) -> None:
    """Nobody overdraws: each decision sees what was decided before."""
    refused: list[int] = []

    def spend() -> None:
        own = events.service("tally")
        aggregate = tally(snapshot_every=3)

        def decide(state: Tally) -> list[object]:
            if len(state.names) == 5:
                refused.append(1)
                return []
            return [Named("spent")]

        for _ in range(5):
            with own.transaction():
                aggregate.decide(Session(own), "a", decide, tries=50)
        own.close()

    threads = [threading.Thread(target=spend) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    current = tally().verify(Session(database), "a")
    assert current.state.names == ["spent"] * 5
    assert current.version == 5
    assert len(refused) >= 10


def test_a_snapshot_that_other_code_has_made_is_found_out() -> None:
    database = memory()
    session = Session(database)
    old = tally(snapshot_every=2)
    old.append(session, old.load(session, "a"), [Added(1), Added(2)])
    changed = tally(factor=2, snapshot_every=2)
    with pytest.raises(SnapshotMismatch, match="snapshot at 2"):
        changed.verify(session, "a")
    assert tally(factor=2, schema_version=2).verify(session, "a").state.total == 10


def test_a_snapshot_of_other_fields_is_left_aside() -> None:
    class Wider(msgspec.Struct, frozen=True):
        total: int = 0
        count: int = 0

    database = memory()
    session = Session(database)
    old = tally(snapshot_every=1)
    old.append(session, old.load(session, "a"), [Added(1), Added(2)])
    wider = Aggregate("tally", Wider)

    @wider.when(version=2)
    def added(state: Wider, event: Added) -> Wider:
        return Wider(state.total + event.amount, state.count + 1)

    assert wider.load(session, "a").state == Wider(3, 2)


def test_events_of_old_versions_are_brought_up_to_date() -> None:
    database = memory()
    database.execute("INSERT INTO stream_heads VALUES ('tally', 'a', 1)")
    database.execute(
        "INSERT INTO stream_events VALUES ('tally', 'a', 1, 'Added', 1, ?, 1)", (b'{"cents":700}',)
    )
    assert tally().load(Session(database), "a").state.total == 7


@pytest.mark.parametrize(
    ("kind", "version", "error"),
    [("Added", 3, "newer program"), ("Gone", 1, "was removed"), ("Named", 0, "no upcast")],
)
def test_an_event_that_is_not_known_is_never_passed_over(
    kind: str, version: int, error: str
) -> None:
    database = memory()
    database.execute("INSERT INTO stream_heads VALUES ('tally', 'a', 1)")
    database.execute(
        "INSERT INTO stream_events VALUES ('tally', 'a', 1, ?, ?, ?, 1)", (kind, version, b"{}")
    )
    with pytest.raises(EventsError, match=error):
        tally().load(Session(database), "a")


@pytest.mark.parametrize(
    ("version", "content", "error"),
    [(1, b"{}", "KeyError: 'cents'"), (2, b'{"amount":"7"}', "Expected `int`")],
    ids=["an upcast that raises", "another type"],
)
def test_an_event_that_cannot_be_read_is_named(version: int, content: bytes, error: str) -> None:
    database = memory()
    database.execute("INSERT INTO stream_heads VALUES ('tally', 'a', 1)")
    database.execute(
        "INSERT INTO stream_events VALUES ('tally', 'a', 1, 'Added', ?, ?, 1)", (version, content)
    )
    said = f"tally a: its event 1, Added of version {version}, can't be read: .*{error}"
    with pytest.raises(EventsError, match=said):
        tally().load(Session(database), "a")


def test_what_is_declared_wrong_is_refused_at_once() -> None:
    aggregate = tally()
    with pytest.raises(EventsError, match="two events"):
        aggregate.when()(lambda_with_types)
    with pytest.raises(EventsError, match="no type"):
        aggregate.when()(lambda state, event: state)
    with pytest.raises(EventsError, match="no event"):
        aggregate.append(Session(memory()), Current("a", Tally(), 0, 0, 0), [object()])
    with pytest.raises(EventsError, match="at least 1"):
        tally(snapshot_every=0)


def lambda_with_types(state: Tally, event: Added) -> Tally:
    return state


def test_the_example_of_the_page_decides_in_its_command(embedded: EmbeddedEvents) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(example, str(PAGE), "exec"), names)  # the page's own code
    service = names["service"]
    store = ServiceStore(
        embedded.service("bank"), service.schema, next_id=lambda: 1, clock_us=lambda: 1
    )

    def send(key: str, account: str) -> Reply:
        def handle(unit: Any) -> Reply:
            found = service.commands[0].handle(names["Deposit"](account, 5), unit)
            return Reply(201, msgspec.json.encode(found), {})

        return store.submit(Command(key, b"", {}, handle)).result()

    database = embedded.service("bank")
    accounts = names["accounts"]
    with database.transaction():
        accounts.decide(Session(database), "ada", lambda _: [names["Opened"]("Ada")])
    assert send("1", "ada").body == b'{"id":"ada","balance":5,"version":2}'
    assert send("1", "ada").body == b'{"id":"ada","balance":5,"version":2}'
    assert send("2", "ada").body == b'{"id":"ada","balance":10,"version":3}'
    with pytest.raises(Refusal, match="no such account"):
        send("3", "ben")
    store.close()
