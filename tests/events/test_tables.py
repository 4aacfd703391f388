"""A new database of the pipelines gets every table that an old one may have."""

from pathlib import Path

import msgspec

from counterfoil.events import (
    EmbeddedEvents,
    Parallel,
    ParallelRunner,
    Saga,
    SagaCoordinator,
    StepContext,
    TaskQueue,
    TaskWorker,
    Topic,
    create_all_tables,
)
from counterfoil.events.sqlite import SqliteDatabase


class Registered(msgspec.Struct):
    id: int


def tables(path: Path) -> set[str]:
    database = SqliteDatabase(path)
    rows = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    database.close()
    return {name for (name,) in rows}


def test_what_whoever_runs_creates_is_what_is_created_for_a_move(tmp_path: Path) -> None:
    for name in ("used", "new"):
        (tmp_path / name).mkdir()
    used, new = EmbeddedEvents(tmp_path / "used"), EmbeddedEvents(tmp_path / "new")
    topic = Topic("any", dict)
    saga = Saga("any", topic)

    @saga.step()
    def step(event: dict[str, int], context: StepContext) -> None: ...

    SagaCoordinator(used.log(), used.pipelines(), saga, fencing_token=1, now_us=lambda: 1)
    runner = ParallelRunner(used.log(), used.pipelines(), Parallel("any", topic, print), lambda: 1)
    runner.close()
    TaskWorker(used.pipelines(), TaskQueue("any", dict, print), lambda: 1).close()
    used.log().declare([Topic("registered", Registered, format="avro")])
    store = new.pipelines()
    create_all_tables(store.database)
    store.close()
    found = tables(tmp_path / "used" / "events.db")
    assert found == tables(tmp_path / "new" / "events.db")
    assert {"saga_instances", "parallel_done", "schemas", "tasks", "versioned_rows"} <= found
